//! Warnings about settings that do not fit each other or the data, although the run can start. Each is one
//! line: the key and its value, the consequence, and what to set instead. They are reported before the first
//! step, by a run and its `--dry-run`, by `doctor` and by `plan`, and written to run.json.

use align_core::config::{ScheduleKind, ScheduleSection, WarmupKind};
use align_model::ModelConfig;

use crate::schedule::warmup_steps;

/// A schedule that does not fit the number of steps, or has a key without effect.
pub fn schedule(peak: f64, schedule: &ScheduleSection, steps: u64) -> Vec<String> {
    let ScheduleSection { kind, min_lr_ratio, .. } = schedule;
    let mut found = Vec::new();
    match schedule.warmup_ratio {
        _ if peak == 0.0 => found.push("optimizer.lr = 0: nothing is learned".to_owned()),
        Some(ratio) => found.extend(long_warmup_ratio(ratio, warmup_steps(schedule, steps), steps)),
        None => found.extend(long_warmup(warmup_steps(schedule, steps), steps)),
    }
    if schedule.warmup_kind != WarmupKind::Linear && warmup_steps(schedule, steps) == 0 {
        found.push(
            "schedule.warmup_kind = \"cosine\": does nothing without a warm-up; set schedule.warmup_ratio or schedule.warmup_steps".to_owned(),
        );
    }
    match kind {
        ScheduleKind::Constant if *min_lr_ratio != ScheduleSection::new(*kind, 0).min_lr_ratio => found.push(format!(
            "schedule.min_lr_ratio = {min_lr_ratio}: does nothing with schedule.kind = \"constant\", whose rate does not fall"
        )),
        ScheduleKind::Linear | ScheduleKind::Cosine if *min_lr_ratio == 1.0 => {
            found.push("schedule.min_lr_ratio = 1: the learning rate does not fall".to_owned())
        }
        _ => {}
    }
    found
}

/// A warm-up in steps that is longer than the run, or than half of it.
fn long_warmup(warmup: u64, steps: u64) -> Option<String> {
    if warmup > steps {
        let reached = percent(steps as f64 / warmup as f64);
        Some(format!(
            "schedule.warmup_steps = {warmup}: the run has {steps} steps, so the learning rate ends at {steps}/{warmup} of optimizer.lr \
             ({reached}); set schedule.warmup_steps = {}, or give the run more steps",
            steps / 10
        ))
    } else if warmup > steps / 2 {
        let after = steps - warmup;
        Some(format!(
            "schedule.warmup_steps = {warmup}: the learning rate rises for most of the run's {steps} steps, and {after} steps follow the warm-up; set \
             schedule.warmup_steps = {}, or give the run more steps",
            steps / 10
        ))
    } else {
        None
    }
}

/// A warm-up that is most of the run, however many steps that has.
fn long_warmup_ratio(ratio: f64, warmup: u64, steps: u64) -> Option<String> {
    (ratio > 0.5).then(|| {
        format!(
            "schedule.warmup_ratio = {ratio}: the learning rate rises for {warmup} of the run's {steps} steps; set schedule.warmup_ratio = 0.03"
        )
    })
}

/// A schedule that depends on the number of steps, in a resumed run whose number of steps has changed: the
/// learning rate jumps, and the run differs from one that had this number of steps from the start.
pub(super) fn changed_steps(schedule: &ScheduleSection, before: u64, now: u64) -> Option<String> {
    let kind = match schedule.kind {
        ScheduleKind::Constant => return changed_warmup(schedule, before, now),
        ScheduleKind::Linear => "linear",
        ScheduleKind::Cosine => "cosine",
    };
    (before != now).then(|| {
        format!(
            "schedule.kind = \"{kind}\": the run was to end at step {before} and now ends at step {now}, towards which the learning rate now falls; a \
             run of {now} steps from the start would have had other rates so far"
        )
    })
}

/// A warm-up that is a fraction of the steps, and has other ends in `before` and `now` steps.
fn changed_warmup(schedule: &ScheduleSection, before: u64, now: u64) -> Option<String> {
    let (old, new) = (warmup_steps(schedule, before), warmup_steps(schedule, now));
    let ratio = schedule.warmup_ratio.filter(|_| old != new)?;
    Some(format!(
        "schedule.warmup_ratio = {ratio}: the warm-up was {old} of {before} steps and is now {new} of {now}; a run of {now} steps from the start would \
         have had other rates so far"
    ))
}

/// Fraction of rows left out or cut above which the run may not train on the intended data.
const MUCH_DROPPED: f64 = 0.1;
/// Fraction of a held-out set that is trained on above which its metrics do not measure generalisation.
const MUCH_OVERLAP: f64 = 0.1;
/// Fraction of duplicate rows above which some rows have more weight than others by accident.
const MUCH_DUPLICATED: f64 = 0.2;

/// Rows that are left out because of their length.
pub fn dropped(key: &str, limit: usize, rows: &str, dropped: u64, of: u64) -> Option<String> {
    let share = share(dropped, of);
    (share > MUCH_DROPPED).then(|| {
        format!(
            "{key} = {limit}: {dropped} of {of} {rows} ({}) are longer and left out; raise it to train on them",
            percent(share)
        )
    })
}

/// Rows that are truncated to the limit.
pub fn truncated(key: &str, limit: usize, rows: &str, truncated: u64, of: u64) -> Option<String> {
    let share = share(truncated, of);
    (share > MUCH_DROPPED).then(|| {
        format!(
            "{key} = {limit}: {truncated} of {of} {rows} ({}) are longer and truncated, so that the model does not learn their ends; raise it to train on \
             whole rows",
            percent(share)
        )
    })
}

/// Rows of a held-out set that are trained on.
pub fn known(key: &str, set: &str, rows: &str, known: u64, of: u64) -> Option<String> {
    let share = share(known, of);
    (share > MUCH_OVERLAP).then(|| {
        format!("{key}: {known} of {of} {rows} of {set} ({}) are trained on, too: its metrics do not measure the model on new {rows}", percent(share))
    })
}

/// Rows that equal an earlier one.
pub fn duplicates(key: &str, rows: &str, duplicates: u64, of: u64) -> Option<String> {
    let share = share(duplicates, of);
    (share > MUCH_DUPLICATED).then(|| {
        format!("{key}: {duplicates} of {of} {rows} ({}) equal an earlier one and are trained on again; `align data dedup` keeps one of each", percent(share))
    })
}

/// A batch that is larger than the data, so that one step takes the same row more than once.
pub fn repeated(key: &str, size: usize, rows: &str, num_rows: usize) -> Option<String> {
    (size > num_rows).then(|| {
        let times = size as f64 / num_rows as f64;
        format!("{key} = {size}: there are {num_rows} {rows}, so that a step takes each {times:.1} times; set {key} = {num_rows}")
    })
}

/// Sequences longer than the positions that a model was trained for; `None` when NTK, LogN or YaRN extends
/// them.
pub fn beyond_positions(
    config: &ModelConfig,
    key: &str,
    what: &str,
    longer_than: impl FnOnce(usize) -> (u64, usize),
) -> Option<String> {
    let limit = config.meant_positions()?;
    let (count, longest) = longer_than(limit);
    (count > 0).then(|| {
        format!("{key}: {count} {what} longer than the model's {limit} positions (max_position_embeddings), the longest with {longest} tokens")
    })
}

/// The number of lengths above a limit, and the maximum of these lengths.
pub fn longer(lengths: impl Iterator<Item = usize>, limit: usize) -> (u64, usize) {
    lengths.filter(|length| *length > limit).fold((0, 0), |(count, longest), length| (count + 1, longest.max(length)))
}

fn share(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}

/// A share in percent, with two significant digits below 10 %.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits =
        if percent >= 10.0 || percent == 0.0 { 0 } else { (1 - percent.log10().floor() as i32).min(6) as usize };
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: ScheduleKind, warmup_steps: u64, steps: u64) -> Vec<String> {
        schedule(2e-6, &ScheduleSection::new(kind, warmup_steps), steps)
    }

    #[test]
    fn percentages_have_two_significant_digits() {
        let shares = [0.0, 0.000_012_34, 0.001_398_6, 0.006_99, 0.0123, 0.1, 0.5, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "0.0012 %", "0.14 %", "0.70 %", "1.2 %", "10 %", "50 %", "100 %"]);
    }

    /// 10 of 1430 steps: 0.699 % of the rate. The report's own run, 1430 of 4000, gives no warning.
    #[test]
    fn a_warm_up_must_fit_the_run() {
        let reported = found(ScheduleKind::Constant, 1430, 10);
        assert_eq!(reported.len(), 1);
        assert!(
            reported[0].contains("ends at 10/1430 of optimizer.lr (0.70 %); set schedule.warmup_steps = 1,"),
            "{reported:?}"
        );
        assert!(found(ScheduleKind::Cosine, 1430, 1429)[0].contains("ends at 1429/1430 of"));
        let reported = found(ScheduleKind::Constant, 1430, 2000);
        assert!(
            reported[0].contains("rises for most of the run's 2000 steps, and 570 steps follow the warm-up"),
            "{reported:?}"
        );
        for (warmup, steps) in [(1430, 4000), (0, 1), (0, 10), (1, 2), (50, 100)] {
            assert_eq!(found(ScheduleKind::Cosine, warmup, steps), Vec::<String>::new(), "{warmup} of {steps}");
        }
    }

    fn with_ratio(kind: ScheduleKind, ratio: f64) -> ScheduleSection {
        ScheduleSection { warmup_steps: None, warmup_ratio: Some(ratio), ..ScheduleSection::new(kind, 0) }
    }

    #[test]
    fn a_ratio_fits_a_run_of_any_length_unless_it_is_most_of_it() {
        let found = |ratio, steps| schedule(2e-6, &with_ratio(ScheduleKind::Constant, ratio), steps);
        for (ratio, steps) in [(0.03, 1), (0.03, 3), (0.03, 10_000), (0.5, 3), (0.0, 10)] {
            assert_eq!(found(ratio, steps), Vec::<String>::new(), "{ratio} of {steps}");
        }
        let reported = found(0.8, 11);
        assert_eq!(reported.len(), 1);
        assert!(
            reported[0].starts_with("schedule.warmup_ratio = 0.8: the learning rate rises for 9 of the run's 11 steps"),
            "{reported:?}"
        );
    }

    #[test]
    fn a_warm_up_kind_without_a_warm_up() {
        let with = |schedule: ScheduleSection| {
            super::schedule(1.0, &ScheduleSection { warmup_kind: WarmupKind::Cosine, ..schedule }, 10)
        };
        for none in [ScheduleSection::new(ScheduleKind::Constant, 0), with_ratio(ScheduleKind::Constant, 0.0)] {
            assert!(with(none)[0].starts_with("schedule.warmup_kind = \"cosine\": does nothing"));
        }
        assert_eq!(with(with_ratio(ScheduleKind::Constant, 0.03)), Vec::<String>::new());
    }

    #[test]
    fn keys_without_effect() {
        let with =
            |kind, min_lr_ratio| schedule(1.0, &ScheduleSection { min_lr_ratio, ..ScheduleSection::new(kind, 0) }, 10);
        assert!(with(ScheduleKind::Constant, 0.5)[0].starts_with("schedule.min_lr_ratio = 0.5: does nothing"));
        assert!(with(ScheduleKind::Linear, 1.0)[0].contains("does not fall"));
        for (kind, ratio) in [(ScheduleKind::Constant, 0.1), (ScheduleKind::Cosine, 0.5), (ScheduleKind::Linear, 0.0)] {
            assert_eq!(with(kind, ratio), Vec::<String>::new());
        }
        assert!(
            schedule(0.0, &ScheduleSection::new(ScheduleKind::Constant, 100), 10)[0].contains("nothing is learned")
        );
    }

    #[test]
    fn changed_steps_matter_to_a_falling_schedule() {
        let reported = |kind, now| changed_steps(&ScheduleSection::new(kind, 0), 12, now);
        assert!(reported(ScheduleKind::Cosine, 24).unwrap().contains("end at step 12 and now ends at step 24"));
        assert_eq!(reported(ScheduleKind::Cosine, 12), None);
        assert_eq!(reported(ScheduleKind::Constant, 24), None);
    }

    /// 0.25 of 12 steps are 3, of 24 steps 6; 0.03 of either is 1.
    #[test]
    fn changed_steps_matter_to_a_warm_up_by_ratio() {
        let reported = |kind, ratio, now| changed_steps(&with_ratio(kind, ratio), 12, now);
        let moved = reported(ScheduleKind::Constant, 0.25, 24).unwrap();
        assert!(moved.contains("warmup_ratio = 0.25: the warm-up was 3 of 12 steps and is now 6 of 24;"), "{moved}");
        assert_eq!(reported(ScheduleKind::Constant, 0.25, 12), None);
        assert_eq!(reported(ScheduleKind::Constant, 0.03, 24), None);
        assert!(reported(ScheduleKind::Linear, 0.25, 24).unwrap().contains("other rates so far"));
    }
}
