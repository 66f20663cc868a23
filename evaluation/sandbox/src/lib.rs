//! Runs model-written Python with Landlock, seccomp and limits, as an ordinary user.
//!
//! Imports only `core`, and not libtorch.
