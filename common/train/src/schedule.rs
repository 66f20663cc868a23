//! The learning rate as a pure function of the step.

use std::f64::consts::PI;

use align_core::config::{ScheduleKind, ScheduleSection};

/// The learning rate of step `step` (0-based) of `total`.
///
/// With w = `warmup_steps`: base · (step + 1) / w while step < w. After the warm-up the rate is constant, or
/// falls from base to base · `min_lr_ratio` at step `total`, linearly or along half a cosine.
pub fn lr(base: f64, schedule: &ScheduleSection, step: u64, total: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return base * (step + 1) as f64 / warmup as f64;
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
    use super::*;

    fn rates(kind: ScheduleKind, warmup_steps: u64, total: u64) -> Vec<f64> {
        let schedule = ScheduleSection { kind, warmup_steps, min_lr_ratio: 0.1 };
        (0..total).map(|step| lr(1.0, &schedule, step, total)).collect()
    }

    fn assert_close(rates: &[f64], expected: &[f64]) {
        assert_eq!(rates.len(), expected.len());
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn warm_up_counts_the_first_step() {
        assert_close(&rates(ScheduleKind::Constant, 4, 6), &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn linear_falls_in_equal_parts() {
        assert_close(&rates(ScheduleKind::Linear, 1, 4), &[1.0, 1.0, 0.7, 0.4]);
    }

    #[test]
    fn cosine_by_hand() {
        // A third of the way cos 60° = 1/2: 0.1 + 0.9 · 3/4.
        assert_close(&rates(ScheduleKind::Cosine, 1, 4), &[1.0, 1.0, 0.775, 0.325]);
    }

    /// The rates of six PyTorch steps: peak 0.01, two steps of warm-up, then a cosine to a tenth.
    #[test]
    fn cosine_as_in_a_recorded_run() {
        let schedule = ScheduleSection { kind: ScheduleKind::Cosine, warmup_steps: 2, min_lr_ratio: 0.1 };
        let recorded = [0.005, 0.01, 0.01, 0.008681980515339464, 0.0055000000000000005, 0.0023180194846605367];
        let rates: Vec<f64> = (0..6).map(|step| lr(0.01, &schedule, step, 6)).collect();
        assert_close(&rates, &recorded);
    }

    #[test]
    fn the_report_warm_up_reaches_its_peak_at_step_1430() {
        let schedule = ScheduleSection { kind: ScheduleKind::Constant, warmup_steps: 1430, min_lr_ratio: 0.1 };
        assert_eq!(lr(2e-6, &schedule, 0, 4000), 2e-6 / 1430.0);
        assert_eq!(lr(2e-6, &schedule, 1429, 4000), 2e-6);
        assert_eq!(lr(2e-6, &schedule, 3999, 4000), 2e-6);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_only_rises() {
        assert_close(&rates(ScheduleKind::Cosine, 10, 2), &[0.1, 0.2]);
    }

    #[test]
    fn past_the_total_the_minimum_stays() {
        let schedule = ScheduleSection { kind: ScheduleKind::Linear, warmup_steps: 0, min_lr_ratio: 0.1 };
        assert!((lr(1.0, &schedule, 20, 10) - 0.1).abs() < 1e-12);
    }
}
