//! Round trips, damage of every kind, and what a killed writer leaves.

use align_kernels::HOST;
use std::fs;
use std::path::Path;

use tch::Kind;

use super::*;
use align_core::atomic_files::write_atomic;
use align_core::error::Problem;

fn state() -> State {
    let mut state = State::new();
    for (name, kind) in [("b", Kind::Float), ("a", Kind::BFloat16), ("c", Kind::Int64), ("d", Kind::Bool)] {
        state.tensors.push((name.to_owned(), Tensor::from_slice(&[1.5f32, 0.0, -2.0, 3.0]).view([2, 2]).to_kind(kind)));
    }
    state.tensors.push(("scalar".to_owned(), Tensor::from(7i64)));
    state.tensors.push(("transposed".to_owned(), Tensor::arange(6, (Kind::Double, HOST)).view([2, 3]).tr()));
    state.set("counts", [1, 2, 3]);
    state.set("mean", 0.1);
    state.set("sums", sums());
    state
}

/// Numbers whose last bit an imprecise decimal parser would change.
fn sums() -> Vec<f64> {
    (1..1000).map(|i| f64::from(i).ln() * 1e-3 + f64::from(i).sqrt()).collect()
}

/// What happens to a model.
#[derive(Clone, Copy, PartialEq)]
enum ModelOutcome {
    Sound,
    NotWritten,
    ReadAsAnother,
}

/// A model of a thousand bytes.
struct Bytes {
    outcome: ModelOutcome,
}

impl Models for Bytes {
    fn write(&self, folder: &Path) -> Result<()> {
        let model = folder.join("model");
        fs::create_dir(&model).map_err(Error::io(&model))?;
        fs::write(model.join("weights"), [7; 1000]).map_err(Error::io(&model))?;
        if self.outcome == ModelOutcome::NotWritten { Err(Error::Failed("no room".to_owned())) } else { Ok(()) }
    }

    fn check(&self, folder: &Path) -> Result<()> {
        assert_eq!(fs::read(folder.join("model/weights")).unwrap(), [7; 1000]);
        if self.outcome == ModelOutcome::Sound { Ok(()) } else { Err(Error::Failed("other numbers".to_owned())) }
    }
}

/// Saves a state with a sound model and nothing else.
fn save(folder: &Path, step: u64, state: State) -> PathBuf {
    super::save(folder, step, Snapshot { models: Box::new(Bytes { outcome: ModelOutcome::Sound }), state }, |_| Ok(()))
        .unwrap()
}

fn problems<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
    match result {
        Err(Error::Invalid(problems)) => problems.iter().map(Problem::to_string).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), 500, state());
    assert_eq!(path, folder.path().join("step-000500"));
    let loaded = load(&path).unwrap();
    let saved = state();
    assert_eq!(loaded.tensors.len(), saved.tensors.len());
    for (name, tensor) in &saved.tensors {
        let other = loaded.by_name()[name.as_str()];
        assert_eq!((other.kind(), other.size()), (tensor.kind(), tensor.size()), "{name}");
        assert!(tensor.equal(other), "{name}");
    }
    assert_eq!(loaded.get::<Vec<u8>>("counts").unwrap(), [1, 2, 3]);
    assert_eq!(loaded.get::<f64>("mean").unwrap(), 0.1);
    assert_eq!(loaded.get::<Vec<f64>>("sums").unwrap(), sums());
    assert!(loaded.get::<f64>("counts").is_err());
    assert!(loaded.get::<f64>("nothing").is_err());
}

#[test]
fn the_bytes_depend_on_names_and_values_only() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let mut reversed = state().tensors;
    reversed.reverse();
    write_tensors(&one, &state().tensors).unwrap();
    write_tensors(&two, &reversed).unwrap();
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |best| {
        prune(folder.path(), 2, best).unwrap();
        list(folder.path()).unwrap().iter().map(|(step, _)| *step).collect::<Vec<u64>>()
    };
    for step in [1, 5, 10, 999_999, 1_000_000] {
        save(folder.path(), step, State::new());
    }
    assert_eq!(kept(Some(5)), [5, 999_999, 1_000_000]);
    assert_eq!(kept(Some(1_000_000)), [999_999, 1_000_000]);
    assert_eq!(kept(None), [999_999, 1_000_000]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_checkpoint_of_the_same_step_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for value in [1, 2] {
        let mut state = State::new();
        state.set("value", value);
        save(folder.path(), 3, state);
    }
    assert_eq!(load(&folder.path().join("step-000003")).unwrap().get::<u8>("value").unwrap(), 2);
}

#[test]
fn damage_is_reported_with_a_recovery_hint() {
    let folder = tempfile::tempdir().unwrap();
    // Sorted by name, the second would come before the first.
    let paths = [999_999, 1_000_000].map(|step| save(folder.path(), step, state()));
    let [first, second] = paths.each_ref().map(|path| path.display());
    let out = format!("; remove {second} to resume from {first}: --resume then continues after step 999999");

    for name in ["state.safetensors", "state.json", "model/weights", "manifest.json"] {
        let file = paths[1].join(name);
        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [Some(&good[..good.len() / 2]), Some(&flipped[..]), None] {
            match bad {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            // A flipped bit in the manifest shows as a mismatch with another file.
            let found = problems(load(&paths[1]));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with(&out), "{found:?}");
            if name != "manifest.json" {
                assert!(found[0].starts_with(&file.display().to_string()), "{found:?}");
            }
        }
        fs::write(&file, good).unwrap();
        verify(&paths[1]).unwrap();
    }
    // A damaged earlier checkpoint is not suggested.
    fs::remove_file(paths[1].join("state.json")).unwrap();
    fs::remove_file(paths[0].join("state.json")).unwrap();
    let out = format!(
        "; no earlier checkpoint is intact: remove {second} and {first} to start again at step 0 with --resume"
    );
    assert!(problems(load(&paths[1]))[0].ends_with(&out));
    let earliest = save(folder.path(), 7, state());
    let out = format!(
        "; remove {second} and {first} to resume from {}: --resume then continues after step 7",
        earliest.display()
    );
    assert!(problems(load(&paths[1]))[0].ends_with(&out));
}

#[test]
fn a_state_that_is_not_saved_leaves_the_earlier_ones_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 1, state());
    let snapshot = |outcome| Snapshot { models: Box::new(Bytes { outcome }), state: state() };
    let full = |_: &Path| Err(Error::Failed("the disk is full".to_owned()));
    assert!(super::save(folder.path(), 2, snapshot(ModelOutcome::Sound), full).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    load(&folder.path().join("step-000001")).unwrap();
    // A state that differs on the disk, whatever happens to the model.
    let flip = |temporary: &Path| {
        let file = temporary.join("state.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).map_err(Error::io(&file))
    };
    for outcome in [ModelOutcome::Sound, ModelOutcome::NotWritten, ModelOutcome::ReadAsAnother] {
        let error = super::save(folder.path(), 2, snapshot(outcome), flip).unwrap_err().to_string();
        assert!(error.contains("state.safetensors: the file differs from what was in memory"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    save(folder.path(), 2, state());
    assert_eq!(list(folder.path()).unwrap().len(), 2);
}

/// Losing masters and moments costs days of training; writing a model again takes seconds.
#[test]
fn a_model_that_is_not_saved_loses_nothing_else() {
    for outcome in [ModelOutcome::NotWritten, ModelOutcome::ReadAsAnother] {
        let folder = tempfile::tempdir().unwrap();
        for step in 1..=3 {
            save(folder.path(), step, state());
        }
        let snapshot = Snapshot { models: Box::new(Bytes { outcome }), state: state() };
        let error = super::save(folder.path(), 4, snapshot, |_| Ok(())).unwrap_err();
        let path = folder.path().join("step-000004");
        let said = error.to_string();
        assert!(said.starts_with("the model of step 4 is not saved: "), "{said}");
        assert!(said.contains(&format!("are, in {}: --resume continues from there", path.display())), "{said}");
        let Error::Models { step: 4, path: named, .. } = error else { panic!("{error:?}") };
        assert_eq!(named, path);

        // It is complete without a model: it has everything that training needs.
        verify(&path).unwrap();
        let loaded = load(&path).unwrap();
        for (name, tensor) in &state().tensors {
            assert!(tensor.equal(loaded.by_name()[name.as_str()]), "{name}");
        }
        assert_eq!(loaded.get::<Vec<f64>>("sums").unwrap(), sums());
        assert!(!has_models(&path) && !path.join("model").exists());
        assert_eq!(path.join("unsound/model/weights").exists(), outcome == ModelOutcome::ReadAsAnother);
        let refused = copy_models(&path, &folder.path().join("copy")).unwrap_err().to_string();
        assert!(refused.contains("has no models"), "{refused}");
        // It does not count towards `keep`, and is removed once there are enough newer ones with models.
        let steps = |keep| {
            prune(folder.path(), keep, None).unwrap();
            list(folder.path()).unwrap().iter().map(|(step, _)| *step).collect::<Vec<u64>>()
        };
        assert_eq!(steps(3), [1, 2, 3, 4]);
        assert_eq!(steps(2), [2, 3, 4]);
        save(folder.path(), 4, state());
        assert!(has_models(&path) && !path.join("unsound").exists());
        assert_eq!(steps(2), [3, 4]);
    }
}

#[test]
fn the_lock_is_released_when_the_bytes_are_written_and_before_they_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let lock = SnapshotLock::default();
    let mut state = state();
    state.hold(lock.lock());
    let waits = |_: &Path| {
        lock.wait(); // forever, if it were still locked
        Ok(())
    };
    super::save(folder.path(), 1, Snapshot { models: Box::new(Bytes { outcome: ModelOutcome::Sound }), state }, waits)
        .unwrap();
}

#[test]
fn copies_of_models_match_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), 1, state());
    let copy = |to: &str| copy_models(&path, &folder.path().join(to));
    copy("one").unwrap();
    assert_eq!(fs::read(folder.path().join("one/model/weights")).unwrap(), [7; 1000]);
    assert_eq!(fs::read_dir(folder.path().join("one")).unwrap().count(), 1, "the models alone");
    fs::write(path.join("model/weights"), [8; 1000]).unwrap();
    assert!(copy("two").unwrap_err().to_string().contains("checksum differs"));
    fs::remove_file(path.join("manifest.json")).unwrap();
    assert!(problems(copy("three"))[0].contains("manifest.json: is missing"));
}

#[test]
fn a_file_is_replaced_atomically() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(matches!(write_atomic(&folder.path().join("no/such"), b""), Err(Error::Io { .. })));
}

#[test]
fn a_state_that_is_not_a_safetensors_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for bytes in [&b""[..], b"12345678", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"] {
        fs::write(&path, bytes).unwrap();
        assert!(read_tensors(&path).is_err());
    }
}
