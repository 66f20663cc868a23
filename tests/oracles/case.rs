//! One recorded case and its numbers, as tables and flat tensors.

use align_ppo::masked::{self, Mask, Table};
use serde::Deserialize;
use serde_json::Value;
use tch::{Kind, Tensor};

/// The recorded file.
#[derive(Deserialize)]
pub(super) struct Golden {
    pub(super) cases: Vec<Case>,
}

/// A call of somebody else's function: what went in, what came out.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) source: String,
    pub(super) name: String,
    pub(super) inputs: Value,
    pub(super) params: Value,
    pub(super) out: Value,
}

impl Case {
    /// A number among the parameters.
    pub(super) fn param(&self, name: &str) -> f64 {
        number(&self.params[name])
    }

    /// A number among the results.
    pub(super) fn result(&self, name: &str) -> f64 {
        number(&self.out[name])
    }

    /// An input list.
    pub(super) fn list(&self, name: &str) -> Vec<f64> {
        list(&self.inputs[name])
    }

    /// An input table.
    pub(super) fn table(&self, name: &str) -> Table {
        table(&self.inputs[name])
    }

    /// An input mask (true or not 0 counts).
    pub(super) fn mask(&self, name: &str) -> Mask {
        table(&self.inputs[name]).mapv(|flag| flag != 0.0)
    }

    /// The mask of a case that records none: tokens before the first pad (id 0), and `more` after them.
    pub(super) fn response_mask(&self, more: usize) -> Mask {
        let responses = self.table("responses");
        let length = |row: usize| responses.row(row).iter().take_while(|&&id| id != 0.0).count() + more;
        Mask::from_shape_fn(responses.raw_dim(), |(row, column)| column < length(row))
    }

    /// A resulting mask that is true at padding, as our masks: true where a token counts.
    pub(super) fn counted_by(&self, padding: &str) -> Mask {
        table(&self.out[padding]).mapv(|flag| flag == 0.0)
    }
}

/// A JSON number; strings are the non-finite ones, flags 0 and 1.
pub(super) fn number(value: &Value) -> f64 {
    match value {
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::String(text) => text.parse().expect("NaN, inf or -inf"),
        _ => value.as_f64().unwrap_or_else(|| panic!("a number, found {value}")),
    }
}

/// A JSON list of numbers.
pub(super) fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("a list, found {value}")).iter().map(number).collect()
}

/// A JSON list of rows.
pub(super) fn table(value: &Value) -> Table {
    let rows: Vec<Vec<f64>> = value.as_array().expect("a list of rows").iter().map(list).collect();
    masked::table(&rows.concat(), &rows.iter().map(Vec::len).collect::<Vec<_>>())
}

/// A JSON list of lists of rows.
pub(super) fn cube(value: &Value) -> Tensor {
    let tables = value.as_array().expect("a list of tables").iter().map(table);
    let tables: Vec<Tensor> = tables
        .map(|table| Tensor::from_slice(table.as_slice().expect("rows in order")).reshape([table.nrows() as i64, -1]))
        .collect();
    Tensor::stack(&tables, 0)
}

/// The counted entries as a flat tensor (N).
pub(super) fn flat(table: &Table, mask: &Mask) -> Tensor {
    Tensor::from_slice(&masked::flat(table, mask))
}

/// A flat tensor back as numbers.
pub(super) fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("a flat tensor of f64")
}

/// All within 1e-6 of what was recorded: some programs compute parts in f32.
pub(super) fn close(found: &[f64], recorded: &[f64]) {
    within(1e-6, found, recorded);
}

/// All within 1e-5 of what was recorded: ours is computed in fp32.
pub(super) fn close_fp32(found: &[f64], recorded: &[f64]) {
    within(1e-5, found, recorded);
}

fn within(tolerance: f64, found: &[f64], recorded: &[f64]) {
    assert_eq!(found.len(), recorded.len());
    for (place, (found, recorded)) in found.iter().zip(recorded).enumerate() {
        let error = (found - recorded).abs();
        assert!(error <= tolerance * recorded.abs().max(1.0), "number {place}: {found}, recorded {recorded}");
    }
}
