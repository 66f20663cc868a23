//! The learning rate as a pure function of the step.

use std::f64::consts::PI;

use align_core::config::{ScheduleKind, ScheduleSection, WarmupKind};

/// The steps of the warm-up in a run of `total` steps: `warmup_steps`, or ⌈total · `warmup_ratio`⌉.
///
/// The product is rounded to float64 before it is rounded up, as in transformers' `get_warmup_steps`: 0.03 of
/// 100 steps are 3, of 101 steps 4, and 0.07 of 100 steps are 8, because 0.07 is stored as a little more.
pub fn warmup_steps(schedule: &ScheduleSection, total: u64) -> u64 {
    match schedule.warmup_ratio {
        Some(ratio) => (total as f64 * ratio).ceil() as u64,
        None => schedule.warmup_steps.unwrap_or(0),
    }
}

/// The learning rate of step `step` (0-based) of `total`.
///
/// With w = [`warmup_steps`] and x = (step + 1) / w: base · x (linear) or base · (1 − cos πx) / 2 (cosine)
/// while step < w. After the warm-up the rate is constant, or falls from base to base · `min_lr_ratio` at
/// step `total`, linearly or along half a cosine.
pub fn lr(base: f64, schedule: &ScheduleSection, step: u64, total: u64) -> f64 {
    let warmup = warmup_steps(schedule, total);
    if step < warmup {
        return match schedule.warmup_kind {
            WarmupKind::Linear => base * (step + 1) as f64 / warmup as f64,
            WarmupKind::Cosine => base * 0.5 * (1.0 - (PI * (step + 1) as f64 / warmup as f64).cos()),
        };
    }
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    let part = progress.min(1.0);
    let falling = match schedule.kind {
        ScheduleKind::Constant => return base,
        ScheduleKind::Linear => 1.0 - part,
        ScheduleKind::Cosine => 0.5 * (1.0 + (PI * part).cos()),
    };
    base * (schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * falling)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn rates(schedule: &ScheduleSection, total: u64) -> Vec<f64> {
        (0..total).map(|step| lr(1.0, schedule, step, total)).collect()
    }

    fn with_ratio(kind: ScheduleKind, warmup_kind: WarmupKind, ratio: f64) -> ScheduleSection {
        let (warmup_steps, warmup_ratio) = (None, Some(ratio));
        ScheduleSection { kind, warmup_steps, warmup_ratio, warmup_kind, min_lr_ratio: 0.1 }
    }

    fn assert_close(rates: &[f64], expected: &[f64]) {
        assert_eq!(rates.len(), expected.len());
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn warm_up_counts_the_first_step() {
        let schedule = ScheduleSection::new(ScheduleKind::Constant, 4);
        assert_close(&rates(&schedule, 6), &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    /// Thirds of 180°: (1 − 1/2) / 2, (1 + 1/2) / 2 and (1 + 1) / 2.
    #[test]
    fn a_cosine_warm_up_by_hand() {
        let mut schedule = ScheduleSection::new(ScheduleKind::Constant, 3);
        schedule.warmup_kind = WarmupKind::Cosine;
        assert_close(&rates(&schedule, 5), &[0.25, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(lr(1e-5, &schedule, 2, 5), 1e-5, "the peak is reached exactly");
        schedule.warmup_steps = Some(0);
        assert_close(&rates(&schedule, 2), &[1.0, 1.0]);
    }

    #[test]
    fn linear_falls_in_equal_parts() {
        assert_close(&rates(&ScheduleSection::new(ScheduleKind::Linear, 1), 4), &[1.0, 1.0, 0.7, 0.4]);
    }

    #[test]
    fn cosine_by_hand() {
        // A third of the way cos 60° = 1/2: 0.1 + 0.9 · 3/4.
        assert_close(&rates(&ScheduleSection::new(ScheduleKind::Cosine, 1), 4), &[1.0, 1.0, 0.775, 0.325]);
    }

    /// The rates of six PyTorch steps: peak 0.01, two steps of warm-up, then a cosine to a tenth.
    #[test]
    fn cosine_as_in_a_recorded_run() {
        let schedule = ScheduleSection::new(ScheduleKind::Cosine, 2);
        let recorded = [0.005, 0.01, 0.01, 0.008681980515339464, 0.0055000000000000005, 0.0023180194846605367];
        let rates: Vec<f64> = (0..6).map(|step| lr(0.01, &schedule, step, 6)).collect();
        assert_close(&rates, &recorded);
    }

    fn recorded() -> Value {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/optim/schedule.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// A warm-up of each kind, constant after it or falling, by schedulers of PyTorch and transformers.
    #[test]
    fn recorded_schedules() {
        let cases = recorded()["cases"].as_array().unwrap().clone();
        assert!(cases.len() >= 8, "{}", cases.len());
        for case in cases {
            let number = |key: &str| case[key].as_f64().unwrap();
            let (kind, warmup_kind) = (parsed(&case["kind"]), parsed(&case["warmup_kind"]));
            let mut schedule = with_ratio(kind, warmup_kind, number("warmup_ratio"));
            schedule.min_lr_ratio = number("min_lr_ratio");
            let expected: Vec<f64> =
                case["rates"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
            let total = expected.len() as u64;
            for (step, expected) in expected.iter().enumerate() {
                let found = lr(number("peak"), &schedule, step as u64, total);
                assert!(
                    (found - expected).abs() <= 1e-14 * number("peak"),
                    "{} at {step}: {found}, not {expected}",
                    case["from"]
                );
            }
        }
    }

    fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn a_ratio_is_rounded_up_as_in_transformers() {
        let recorded = recorded();
        let counts = recorded["warmup_steps"].as_array().unwrap();
        assert!(counts.len() >= 50, "{}", counts.len());
        for count in counts {
            let (total, ratio) = (count[0].as_u64().unwrap(), count[1].as_f64().unwrap());
            let schedule = with_ratio(ScheduleKind::Constant, WarmupKind::Linear, ratio);
            assert_eq!(warmup_steps(&schedule, total), count[2].as_u64().unwrap(), "{ratio} of {total}");
        }
    }

    /// 0.03 · 100 = 3 and 0.03 · 101 = 3.03; every ratio above 0 is at least a step.
    #[test]
    fn a_ratio_by_hand() {
        let steps = |ratio, total| warmup_steps(&with_ratio(ScheduleKind::Constant, WarmupKind::Linear, ratio), total);
        assert_eq!([steps(0.03, 100), steps(0.03, 101), steps(0.03, 1), steps(0.5, 7)], [3, 4, 1, 4]);
        assert_eq!([steps(0.0, 100), steps(1.0, 100), steps(0.03, 21_458)], [0, 100, 644]);
    }

    #[test]
    fn the_report_warm_up_reaches_its_peak_at_step_1430() {
        let schedule = ScheduleSection::new(ScheduleKind::Constant, 1430);
        assert_eq!(lr(2e-6, &schedule, 0, 4000), 2e-6 / 1430.0);
        assert_eq!(lr(2e-6, &schedule, 1429, 4000), 2e-6);
        assert_eq!(lr(2e-6, &schedule, 3999, 4000), 2e-6);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_only_rises() {
        assert_close(&rates(&ScheduleSection::new(ScheduleKind::Cosine, 10), 2), &[0.1, 0.2]);
    }

    #[test]
    fn past_the_total_the_minimum_stays() {
        let schedule = ScheduleSection::new(ScheduleKind::Linear, 0);
        assert!((lr(1.0, &schedule, 20, 10) - 0.1).abs() < 1e-12);
    }
}
