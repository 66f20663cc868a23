//! Round trips, damage of every kind, and what a killed writer leaves.

use std::fs;
use std::path::Path;

use tch::Kind;

use super::*;
use crate::error::Problem;

fn state() -> State {
    let mut state = State::new();
    for (name, kind) in [("b", Kind::Float), ("a", Kind::BFloat16), ("c", Kind::Int64), ("d", Kind::Bool)] {
        state.tensors.push((name.to_owned(), Tensor::from_slice(&[1.5f32, 0.0, -2.0, 3.0]).view([2, 2]).to_kind(kind)));
    }
    state.tensors.push(("scalar".to_owned(), Tensor::from(7i64)));
    state
        .tensors
        .push(("transposed".to_owned(), Tensor::arange(6, (Kind::Double, tch::Device::Cpu)).view([2, 3]).tr()));
    state.set("counts", [1, 2, 3]);
    state.set("mean", 0.1);
    state.set("sums", sums());
    state
}

/// Numbers of which a careless reader of decimals changes the last bit.
fn sums() -> Vec<f64> {
    (1..1000).map(|i| f64::from(i).ln() * 1e-3 + f64::from(i).sqrt()).collect()
}

fn write_model(folder: &Path) -> Result<()> {
    let model = folder.join("model");
    fs::create_dir(&model).map_err(Error::io(&model))?;
    fs::write(model.join("weights"), [7; 1000]).map_err(Error::io(&model))
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
    let path = save(folder.path(), 500, &state(), 3, write_model).unwrap();
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
fn the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for step in [1, 5, 10, 1_000_000, 1_000_001] {
        save(folder.path(), step, &State::new(), 2, |_| Ok(())).unwrap();
    }
    let steps: Vec<u64> = list(folder.path()).unwrap().iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1_000_000, 1_000_001]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_checkpoint_of_the_same_step_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for value in [1, 2] {
        let mut state = State::new();
        state.set("value", value);
        save(folder.path(), 3, &state, 2, |_| Ok(())).unwrap();
    }
    assert_eq!(load(&folder.path().join("step-000003")).unwrap().get::<u8>("value").unwrap(), 2);
}

#[test]
fn damage_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let previous = save(folder.path(), 1, &state(), 3, write_model).unwrap();
    let path = save(folder.path(), 2, &state(), 3, write_model).unwrap();
    let out = format!("; remove {} and resume from {}", path.display(), previous.display());

    for name in ["state.safetensors", "state.json", "model/weights", "manifest.json"] {
        let file = path.join(name);
        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [Some(&good[..good.len() / 2]), Some(&flipped[..]), None] {
            match bad {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            // A flipped bit in the manifest shows in what it says of another file.
            let found = problems(load(&path));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with(&out), "{found:?}");
            if name != "manifest.json" {
                assert!(found[0].starts_with(&file.display().to_string()), "{found:?}");
            }
        }
        fs::write(&file, good).unwrap();
        verify(&path).unwrap();
    }
    fs::remove_file(previous.join("state.json")).unwrap();
    assert!(problems(load(&previous))[0].ends_with("and start again"));
}

#[test]
fn a_failed_save_leaves_the_earlier_ones() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 1, &state(), 1, write_model).unwrap();
    let failed = save(folder.path(), 2, &state(), 1, |temporary| {
        write_model(temporary)?;
        Err(Error::Failed("the disk is full".to_owned()))
    });
    assert!(failed.is_err());
    assert_eq!(list(folder.path()).unwrap().len(), 1);
    load(&folder.path().join("step-000001")).unwrap();
    remove_temporaries(folder.path()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    save(folder.path(), 2, &state(), 1, write_model).unwrap();
    assert_eq!(list(folder.path()).unwrap()[0].0, 2);
}

#[test]
fn a_whole_file_replaces_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    write_whole(&path, b"one").unwrap();
    write_whole(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(matches!(write_whole(&folder.path().join("no/such"), b""), Err(Error::Io { .. })));
}

#[test]
fn a_state_that_is_no_safetensors_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for bytes in [&b""[..], b"12345678", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"] {
        fs::write(&path, bytes).unwrap();
        assert!(read_tensors(&path).is_err());
    }
}
