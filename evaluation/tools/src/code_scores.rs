//! Tables 7 and 8: how often the code of a model runs, and how often it is right.
//!
//! Source: QwenLM/Qwen-Agent, benchmark.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::agent::Turn;
use crate::code_rows::{CodeKind, CodeRow, with_base_names};
use crate::interpreter::{code_of, runnable};
use crate::numbers::{last_number, plain_number};

/// What programs are given. Missing packages make programs fail that are right, so they are looked for
/// before the first one.
pub const PACKAGES: [&str; 5] = ["numpy", "pandas", "matplotlib", "seaborn", "sympy"];

/// What comes before the code of a program, and is run once in an interpreter's session: the imports of the
/// published script.
pub const IMPORTS: &str = "\
import json
import math
import os
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sympy import Eq, solve, symbols
";

/// A program that says whether a row's code runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Python.
    pub source: String,
    /// Its wall-clock limit in seconds. Math and visualization: 10, as published. General rows have no limit
    /// there; 60 here.
    pub seconds: f64,
    /// Files that it reads, by their base names.
    pub files: Vec<PathBuf>,
}

/// The program of a turn: the code that the row brings, and that of all calls, in order (of the first only
/// for visualization and general rows). `None` when the model wrote none, which counts as not executable.
pub fn program(row: &CodeRow, turn: &Turn) -> Option<Program> {
    let inputs = turn.steps.iter().map(|step| step.input.as_str()).take_while(|input| !input.is_empty());
    let wanted = if row.kind.counts_first_only() { 1 } else { usize::MAX };
    let codes: Vec<String> = inputs.take(wanted).map(|input| with_base_names(&code_of(input), &row.files)).collect();
    if codes.is_empty() {
        return None;
    }
    let code = row.first_code().into_iter().chain(codes).collect::<Vec<_>>().join("\n\n");
    let mut source = format!("{IMPORTS}\n{}\n", runnable(&code));
    if source.contains("plt.show()") || source.contains("sns.") {
        source.push_str("plt.close('all')\n");
    }
    let seconds = if row.kind == CodeKind::General { 60.0 } else { 10.0 };
    Some(Program { source, seconds, files: row.files.clone() })
}

/// Whether the last number of a turn's text, observations included, is that of the worked answer.
pub fn is_correct(text: &str, answer: &str) -> bool {
    let gold = last_number(answer);
    gold.is_some() && last_number(text) == gold
}

/// Whether the final answer has the gold number as its last one: a stricter rule than the published one,
/// which reads thousands separators and line ends, and ignores observations.
pub fn is_final_answer_correct(turn: &Turn, answer: &str) -> bool {
    let gold = answer.rsplit_once("####").map_or(answer, |(_, gold)| gold);
    let gold = plain_number(gold);
    gold.is_some() && turn.answer.as_deref().and_then(plain_number) == gold
}

/// The pictures of a turn, if one of its results has a picture and no error. Only these are shown to a person
/// or a vision model; other rows are wrong.
pub fn figures(turn: &Turn) -> Vec<PathBuf> {
    let is_clean = turn.steps.iter().any(|step| {
        !step.observation.figures.is_empty() && !step.observation.spells_error() && !step.observation.is_error
    });
    let all = turn.steps.iter().flat_map(|step| step.observation.figures.iter().cloned());
    if is_clean { all.collect() } else { Vec::new() }
}

/// What is known about one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOutcome {
    /// What the row asks for.
    pub kind: CodeKind,
    /// Whether the row brings the first action.
    pub brings_action: bool,
    /// Whether the model wrote code.
    pub has_code: bool,
    /// Whether it runs; false without code.
    pub is_executable: bool,
    /// Whether the result is right; `None` where that is not known: general rows, math rows without an
    /// answer, and pictures that were not looked at.
    pub is_correct: Option<bool>,
}

/// Rows whose code runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Executable {
    /// Rows.
    pub rows: u64,
    /// Rows without code.
    pub missing_code: u64,
    /// Rows whose code runs.
    pub executable: u64,
}

/// Rows with a right result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Accuracy {
    /// Rows.
    pub rows: u64,
    /// Rows of which it is not known.
    pub unknown: u64,
    /// Rows with a right result.
    pub correct: u64,
}

/// The results of Tables 7 and 8, as counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CodeScores {
    /// The executable rate, by kind.
    pub executable: BTreeMap<CodeKind, Executable>,
    /// The same over all rows.
    pub executable_all: Executable,
    /// Accuracy of math rows that have an answer.
    pub math: Accuracy,
    /// Accuracy of visualizations for which the model writes all code.
    pub visualization_hard: Accuracy,
    /// Accuracy of visualizations whose first action the row brings.
    pub visualization_easy: Accuracy,
}

impl CodeScores {
    /// Counts a row.
    pub fn add(&mut self, row: &RowOutcome) {
        for counts in [self.executable.entry(row.kind).or_default(), &mut self.executable_all] {
            counts.rows += 1;
            counts.missing_code += u64::from(!row.has_code);
            counts.executable += u64::from(row.is_executable);
        }
        let accuracy = match (row.kind, row.brings_action) {
            (CodeKind::Math, _) => &mut self.math,
            (CodeKind::Visualization, false) => &mut self.visualization_hard,
            (CodeKind::Visualization, true) => &mut self.visualization_easy,
            (CodeKind::General, _) => return,
        };
        accuracy.rows += 1;
        accuracy.unknown += u64::from(row.is_correct.is_none());
        accuracy.correct += u64::from(row.is_correct == Some(true));
    }
}
