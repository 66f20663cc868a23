//! A folder that is worked on, without a service.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use super::*;
use crate::assignment::Next;
use crate::judgment::{JUDGMENTS, Labels};
use crate::overview::overview;

/// Any time.
const NOW: u64 = 1_800_000_000;

fn items(count: usize, responses: usize) -> Vec<Item> {
    let item = |number: usize| {
        let texts: Vec<String> = (0..responses).map(|index| format!("response {index} of {number}")).collect();
        let line = serde_json::json!({ "id": format!("item {number}"), "prompt": "Hi", "responses": texts });
        crate::parse_item(line.to_string().as_bytes()).unwrap()
    };
    (0..count).map(item).collect()
}

fn settings(ask: Ask, per_item: usize, repeat_rate: f64) -> Settings {
    Settings { rules: Rules { ask, per_item, repeat_rate, seed: 7 }, scale: 7 }
}

fn open(folder: &Path, settings: &Settings, items: &[Item]) -> Desk {
    Desk::open(folder, settings.clone(), items.to_vec(), NOW).unwrap()
}

fn task(desk: &mut Desk, name: &str, now: u64) -> Task {
    match desk.next(name, now).unwrap() {
        Next::Task(task) => task,
        other => panic!("{other:?}"),
    }
}

/// An answer in which the responses are ranked as they are shown.
fn ranked(count: u32) -> Answer {
    Answer { ranks: Some((1..=count).collect()), ..Answer::default() }
}

#[test]
fn everyone_has_an_order_of_his_own_and_nothing_is_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(Ask::Rank, 2, 0.0);
    let mut desk = open(folder.path(), &settings, &items(40, 3));
    let mut order: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for _ in 0..40 {
        for name in ["ann", "bob"] {
            let task = task(&mut desk, name, NOW);
            assert_eq!(desk.next(name, NOW).unwrap(), Next::Task(task), "the same until it is finished");
            desk.submit(name, task, ranked(3), NOW).unwrap();
            order.entry(name).or_default().push(task.item);
        }
    }
    for name in ["ann", "bob", "cem"] {
        assert_eq!(desk.next(name, NOW).unwrap(), Next::Done, "{name}");
    }
    assert!(order.values().all(|order| order.iter().collect::<BTreeSet<_>>().len() == 40));
    assert_ne!(order["ann"], order["bob"]);
    assert_ne!(order["ann"], (0..40).collect::<Vec<_>>());
}

#[test]
fn a_reservation_holds_for_half_an_hour_and_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, items) = (settings(Ask::Rank, 1, 0.0), items(1, 2));
    let mut desk = open(folder.path(), &settings, &items);
    let task = task(&mut desk, "ann", NOW);
    assert_eq!(desk.next("bob", NOW + RESERVED_SECONDS - 1).unwrap(), Next::Later(1));
    drop(desk);
    let mut desk = open(folder.path(), &settings, &items);
    assert_eq!(desk.next("bob", NOW + 1).unwrap(), Next::Later(1));
    let gone = desk.submit("bob", task, ranked(2), NOW + 1);
    assert!(matches!(gone, Err(Refused::Gone)), "{gone:?}");
    // Then another person gets it, and the first one comes too late.
    let late = NOW + RESERVED_SECONDS + 1;
    assert_eq!(desk.next("bob", late).unwrap(), Next::Task(task));
    assert!(matches!(desk.submit("ann", task, ranked(2), late), Err(Refused::Gone)));
    desk.submit("bob", task, ranked(2), late).unwrap();
    assert_eq!(desk.next("ann", late).unwrap(), Next::Done);
    assert_eq!(desk.assignment().progress("bob"), Progress { mine: 1, all: 1, wanted: 1 });
}

#[test]
fn late_but_wanted_answers_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = open(folder.path(), &settings(Ask::Rank, 1, 0.0), &items(1, 2));
    let task = task(&mut desk, "ann", NOW);
    desk.submit("ann", task, ranked(2), NOW + 10 * RESERVED_SECONDS).unwrap();
}

#[test]
fn a_skipped_item_goes_to_someone_else_until_too_many_skip_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = open(folder.path(), &settings(Ask::Rank, 2, 0.0), &items(1, 2));
    let skip = || Answer { skipped: Some("unclear".to_owned()), ..Answer::default() };
    for name in ["ann", "bob"] {
        let task = task(&mut desk, name, NOW);
        desk.submit(name, task, skip(), NOW).unwrap();
        assert_eq!(desk.next(name, NOW).unwrap(), Next::Done);
    }
    assert_eq!(desk.next("cem", NOW).unwrap(), Next::Done);
    // A change of mind counts.
    desk.submit("ann", Task { item: 0, repeat: 0 }, ranked(2), NOW).unwrap();
    assert!(matches!(desk.next("cem", NOW).unwrap(), Next::Task(_)));
    assert_eq!(overview(&desk, NOW).skips.len(), 1);
}

#[test]
fn some_items_are_given_again_much_later_in_an_order_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, items) = (settings(Ask::Rank, 1, 0.05), items(400, 5));
    let mut desk = open(folder.path(), &settings, &items);
    let (mut given, mut again): (Vec<Task>, Vec<(usize, Task)>) = Default::default();
    while let Next::Task(task) = desk.next("ann", NOW).unwrap() {
        if task.repeat > 0 {
            again.push((given.len(), task));
        }
        // A restart in between changes nothing.
        if given.len() % 100 == 50 {
            drop(desk);
            desk = open(folder.path(), &settings, &items);
            assert_eq!(desk.next("ann", NOW).unwrap(), Next::Task(task));
        }
        given.push(task);
        desk.submit("ann", task, ranked(5), NOW).unwrap();
    }
    // 400 draws of 5 %: within three standard deviations of 20.
    assert!((7..=33).contains(&again.len()), "{}", again.len());
    let mut differ = 0;
    for (at, task) in &again {
        let first = Task { repeat: 0, ..*task };
        let before = given.iter().position(|own| *own == first).unwrap();
        assert!(before + 10 <= *at, "{before} and {at}");
        differ += usize::from(desk.sheet("ann", *task).responses != desk.sheet("ann", first).responses);
    }
    assert!(differ * 10 > again.len() * 8, "{differ} of {}", again.len());
    assert_eq!(desk.assignment().progress("ann").all, 400, "repeated items do not count twice");
    let labels = Labels::read(folder.path()).unwrap();
    assert_eq!(labels.read.judgments.iter().filter(|own| own.repeat == 1).count(), again.len());
    let own = &overview(&desk, NOW).annotators[0];
    assert_eq!((own.judgments, own.consistency.all), (400, 10 * again.len() as u64));
}

#[test]
fn gold_items_go_to_everyone_and_count_for_no_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut items = items(2, 2);
    items[0].gold = Some(vec![2, 1]);
    let mut desk = open(folder.path(), &settings(Ask::Rank, 1, 0.0), &items);
    for name in ["ann", "bob", "cem"] {
        while let Next::Task(task) = desk.next(name, NOW).unwrap() {
            desk.submit(name, task, ranked(2), NOW).unwrap();
        }
    }
    let read = Labels::read(folder.path()).unwrap().read;
    let of = |id: &str| read.judgments.iter().filter(|own| own.item == id).count();
    assert_eq!((of("item 0"), of("item 1")), (3, 1));
    assert_eq!(desk.assignment().progress("ann").wanted, 1);
    let gold: u64 = overview(&desk, NOW).annotators.iter().map(|own| own.gold.all).sum();
    assert_eq!(gold, 3);
}

#[test]
fn identical_responses_are_shown_once_and_tie() {
    let folder = tempfile::tempdir().unwrap();
    let mut items = items(2, 3);
    items[0].responses = ["same", "other", "same"].map(str::to_owned).to_vec();
    items[1].responses = vec!["all".to_owned(); 3];
    let mut desk = open(folder.path(), &settings(Ask::Rank, 1, 0.0), &items);
    assert_eq!(desk.assignment().num_not_asked(), 1);
    let task = task(&mut desk, "ann", NOW);
    let sheet = desk.sheet("ann", task);
    assert_eq!(sheet.responses.len(), 2);
    let flags = vec![vec!["unsafe".to_owned()], Vec::new()];
    desk.submit("ann", task, Answer { flags, ..ranked(2) }, NOW).unwrap();
    assert_eq!(desk.next("ann", NOW).unwrap(), Next::Done);
    let judgment = &Labels::read(folder.path()).unwrap().read.judgments[0];
    let is_same_first = sheet.responses[0] == "same";
    assert_eq!(judgment.ranks, Some(if is_same_first { vec![1, 2, 1] } else { vec![2, 1, 2] }));
    let flagged: Vec<bool> = judgment.flags.iter().map(|own| !own.is_empty()).collect();
    assert_eq!(flagged, if is_same_first { [true, false, true] } else { [false, true, false] });
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = open(folder.path(), &settings(Ask::Score, 1, 0.0), &items(1, 2));
    let task = task(&mut desk, "ann", NOW);
    let scores = |scores: &[u32]| Answer { scores: Some(scores.to_vec()), ..Answer::default() };
    let bad = [
        (ranked(2), "expected `scores`"),
        (Answer::default(), "expected `scores`"),
        (scores(&[1]), "expected 2 numbers from 1 to 7"),
        (scores(&[0, 3]), "expected 2 numbers from 1 to 7"),
        (scores(&[8, 3]), "expected 2 numbers from 1 to 7"),
        (Answer { skipped: Some("unclear".to_owned()), ..scores(&[1, 2]) }, "with `skipped`"),
        (Answer { skipped: Some("mood".to_owned()), ..Answer::default() }, "expected one of unclear"),
        (Answer { flags: vec![vec!["odd".to_owned()], vec![]], ..scores(&[1, 2]) }, "`flags` does not fit"),
        (Answer { both_bad: true, ..scores(&[1, 1]) }, "`both_bad` does not fit"),
        (Answer { strength: Some(crate::Strength::Much), ..scores(&[1, 2]) }, "`strength` does not fit"),
        (Answer { comment: Some("x".repeat(2001)), ..scores(&[1, 2]) }, "expected at most 2000 characters"),
        (Answer { seconds: f64::NAN, ..scores(&[1, 2]) }, "`seconds` is not a duration"),
    ];
    for (answer, expected) in bad {
        match desk.submit("ann", task, answer, NOW) {
            Err(Refused::Invalid(what)) => assert!(what.contains(expected), "{what}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(desk.submit("ann", Task { item: 9, repeat: 0 }, scores(&[1, 2]), NOW), Err(Refused::Invalid(_))));
    assert_eq!(fs::read_to_string(folder.path().join(JUDGMENTS)).unwrap(), "");
    desk.submit("ann", task, scores(&[7, 1]), NOW).unwrap();
}

#[test]
fn an_incomplete_line_is_cut_off_and_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, items) = (settings(Ask::Rank, 1, 0.0), items(3, 2));
    let mut desk = open(folder.path(), &settings, &items);
    let first = task(&mut desk, "ann", NOW);
    desk.submit("ann", first, ranked(2), NOW).unwrap();
    drop(desk);
    let path = folder.path().join(JUDGMENTS);
    let whole = fs::read_to_string(&path).unwrap();
    // Every possible end of a second line.
    let line = whole.replace("\"ann\"", "\"bob\"");
    for end in 1..line.len() {
        fs::write(&path, format!("{whole}{}", &line[..end])).unwrap();
        let desk = open(folder.path(), &settings, &items);
        let kept = usize::from(end + 1 == line.len()); // only the line break is missing
        assert_eq!(desk.judgments().count(), 1 + kept, "{end}");
        drop(desk);
        assert!(fs::read_to_string(&path).unwrap().ends_with("}\n"));
    }
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"item\": \"none\"}\n").unwrap();
    let error = Desk::open(folder.path(), settings, items, NOW).unwrap_err().to_string();
    assert!(error.contains("judgments.jsonl:3: "), "{error}");
}

#[test]
fn names_that_differ_by_case_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = open(folder.path(), &settings(Ask::Rank, 1, 0.0), &items(1, 2));
    task(&mut desk, "Ann", NOW);
    assert_eq!(desk.assignment().similar_name("ann"), Some("Ann"));
    assert_eq!((desk.assignment().similar_name("Ann"), desk.assignment().similar_name("bob")), (None, None));
}

/// A large fleet of annotators who come, leave and are late, in any order.
#[test]
fn with_people_who_leave_every_item_still_gets_its_number() {
    use align_core::random::{Purpose, uniform};
    let folder = tempfile::tempdir().unwrap();
    let mut desk = open(folder.path(), &settings(Ask::Rank, 3, 0.05), &items(60, 2));
    let names: Vec<String> = (0..12).map(|number| format!("annotator {number}")).collect();
    let mut now = NOW;
    for turn in 0.. {
        let draw = |position| uniform(1, Purpose::Order, turn, 0, position);
        now += (draw(0) * 400.0) as u64;
        let name = &names[(draw(1) * 12.0) as usize];
        match desk.next(name, now).unwrap() {
            // One in four leaves without an answer.
            Next::Task(task) if draw(2) < 0.75 => drop(desk.submit(name, task, ranked(2), now).unwrap()),
            _ => {}
        }
        let progress = desk.assignment().progress("");
        if progress.all == progress.wanted {
            break;
        }
        assert!(turn < 10_000, "{progress:?}");
    }
    let read = Labels::read(folder.path()).unwrap().read;
    let mut people: BTreeMap<&str, usize> = BTreeMap::new();
    read.judgments.iter().filter(|own| own.repeat == 0).for_each(|own| *people.entry(&own.item).or_default() += 1);
    assert!(people.len() == 60 && people.values().all(|count| *count == 3), "{people:?}");
    assert_eq!(read.replaced, 0);
}
