//! Which checkpoint is the best, and models that are not saved, or are saved again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::super::best::eval_loss;
use super::super::folder::{self, CHECKPOINTS};
use super::super::{Outcome, Started};
use super::stage::{Hook, Stage, dies_at, facts_of, straight};
use crate::checkpoint;
use align_core::config::ResultDtype;

/// The losses on two held-out sets; the lowest mean at a saved step is that of step 12.
fn dips(done: u64) -> f64 {
    [0.5, 0.9, 0.7, 0.6, 0.3][done as usize / 4 % 5]
}

#[test]
fn the_best_checkpoint_is_kept_however_the_run_reached_its_end() {
    let folder = tempfile::tempdir().unwrap();
    fn stage(out: &Path, resume: bool) -> Stage<'_> {
        Stage { eval_loss: dips, ..Stage::new(out, 30, resume) }
    }
    let whole = folder.path().join("whole");
    stage(&whole, false).train().unwrap();
    let steps = |out: &Path| -> Vec<u64> {
        checkpoint::list(&out.join(CHECKPOINTS)).unwrap().iter().map(|(step, _)| *step).collect()
    };
    // Step 16 is lower, but was not saved; of those that were evaluated, 12, 24 and 30 were.
    assert_eq!(steps(&whole), [12, 27, 30]);
    let best = |out: &Path| folder::read_facts(out).unwrap()["best"].clone();
    assert_eq!(best(&whole), json!({"step": 12, "loss": 1.2}));
    for (step, point) in [(11, "log"), (12, "saving"), (12, "checking"), (13, "save"), (21, "save"), (30, "finish")] {
        let out = folder.path().join(format!("{step}-{point}"));
        if (Stage { hook: dies_at(step, point), ..stage(&out, false) }).train().is_err() {
            stage(&out, true).train().unwrap();
        }
        assert_eq!((steps(&out), best(&out)), (steps(&whole), best(&whole)), "stopped at step {step}, {point}");
    }
    // The last step of a run that is given more was evaluated only because it was the last: it does not
    // compete.
    let out = folder.path().join("extended");
    let low = |done| if done == 6 { 0.1 } else { dips(done) };
    Stage { eval_loss: low, ..Stage::new(&out, 6, false) }.train().unwrap();
    assert_eq!(best(&out)["step"], 6);
    Stage { eval_loss: low, ..Stage::new(&out, 30, true) }.train().unwrap();
    assert_eq!((steps(&out), best(&out)), (steps(&whole), best(&whole)));
}

#[test]
fn a_non_finite_loss_is_never_the_best() {
    let line = |losses: &[(&str, f64)]| eval_loss(losses.iter().map(|(name, loss)| (*name, Some(*loss))));
    assert_eq!(line(&[("train/loss", 1.0), ("eval/a/accuracy", 0.1), ("eval/loss", 2.0)]), None);
    assert_eq!(line(&[("eval/a/loss", 1.0), ("eval/b/loss", 2.0)]), Some(1.5));
    assert_eq!(line(&[("eval/a/loss", 1.0), ("eval/b/loss", f64::NAN)]), None);
    assert_eq!(eval_loss([("eval/a/loss", None), ("eval/b/loss", Some(1.0))].into_iter()), None);
}

/// A model that cannot be written, or does not read back as written, ends the run at the next step, or at its
/// end. The training state is kept: a resume continues after that step, and writes the model first.
#[test]
fn a_model_that_is_not_saved_ends_the_run_and_nothing_is_lost() {
    let expected = straight(9);
    for point in ["saving", "checking"] {
        for step in [6, 9] {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("run");
            let error = Stage { hook: dies_at(step, point), ..Stage::new(&out, 9, false) }.train().unwrap_err();
            assert_eq!(error.exit_code(), 1);
            let (said, path) = (error.to_string(), out.join(CHECKPOINTS).join(checkpoint::folder_name(step)));
            assert!(said.starts_with(&format!("the model of step {step} is not saved: killed here;")), "{said}");
            assert!(said.contains(&format!("in {}: --resume", path.display())), "{said}");
            let steps: Vec<u64> =
                checkpoint::list(&out.join(CHECKPOINTS)).unwrap().iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, if step == 6 { vec![3, 6] } else { vec![3, 6, 9] }, "nothing is pruned");
            assert!(!out.join("model").exists());

            // Earlier models are not replaced as long as this one is not written.
            let again = Stage { hook: dies_at(step, point), ..Stage::new(&out, 9, true) }.train().unwrap_err();
            assert!(again.to_string().starts_with(&format!("the model of step {step} is not saved")), "{again}");
            assert!(checkpoint::has_models(&out.join(CHECKPOINTS).join("step-000003")));
            let Started::Ready(run) = Stage::new(&out, 9, true).start(&Stage::new(&out, 9, true).config()).unwrap()
            else {
                panic!("the run is not finished")
            };
            assert_eq!((run.next_step(), run.models_are_due()), (step, true));
            drop(run);
            assert_eq!(Stage::new(&out, 9, true).train().unwrap(), Outcome::Finished { step: 9 });
            assert_eq!(facts_of(&out), expected, "step {step}, {point}");
        }
    }
}

/// A finished run has its fp32 masters: its result can be written again in another dtype.
#[test]
fn a_finished_run_is_written_again_in_another_dtype() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let written = Arc::new(AtomicU64::new(0));
    let count = || written.load(Ordering::Relaxed);
    let hook: Hook = {
        let written = written.clone();
        Arc::new(move |_, at| {
            written.fetch_add(u64::from(at == "saving"), Ordering::Relaxed);
            Ok(())
        })
    };
    let train = |dtype: ResultDtype, resume| {
        let mut stage = Stage { hook: hook.clone(), ..Stage::new(&out, 4, resume) };
        stage.section.result_dtype = dtype;
        let name = serde_json::to_value(dtype).unwrap();
        let config = format!("{}result_dtype = {name}\n", stage.config());
        stage.train_with(&config).unwrap()
    };
    train(ResultDtype::Auto, false);
    assert_eq!(count(), 2); // 3 and the last
    let expected = facts_of(&out);
    assert_eq!(train(ResultDtype::Auto, true), Outcome::AlreadyFinished { step: 4 });
    assert_eq!(train(ResultDtype::Float32, true), Outcome::Finished { step: 4 });
    assert_eq!(count(), 3);
    assert_eq!(facts_of(&out), expected);
    assert_eq!(train(ResultDtype::Float32, true), Outcome::AlreadyFinished { step: 4 });
    assert_eq!(count(), 3);
}

/// A checkpoint has the state at the time of the call, even if training would be further by the time it is
/// written.
#[test]
fn training_waits_while_it_is_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let slow: Hook = Arc::new(|_, at| {
        if at == "saving" {
            sleep(Duration::from_millis(60));
        }
        Ok(())
    });
    let out = folder.path().join("run");
    Stage { hook: slow, ..Stage::new(&out, 7, false) }.train().unwrap();
    for step in ["step-000006", "step-000007"] {
        let state = checkpoint::load(&out.join(CHECKPOINTS).join(step)).unwrap();
        let written =
            checkpoint::read_tensors(&out.join(CHECKPOINTS).join(step).join("model/model.safetensors")).unwrap();
        assert!(state.by_name()["model/master/weights"].equal(&written[0].1));
    }
    assert_eq!(facts_of(&out), straight(7));
}
