//! chatml
