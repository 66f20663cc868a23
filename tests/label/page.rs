//! The page of `align label` in a browser.

use align_judgments::{Ask, Judgment, Labels, Strength};
use serde_json::{Value, json};

use super::browser::Browser;
use super::{Annotator, Labelling, qualities, write_items};
use crate::util::Folder;

/// What a page must not hold, and texts of other scripts.
const HOSTILE: [&str; 5] = [
    "<script>window.__hit = 1</script><img src=x onerror=\"window.__hit = 2\"></textarea></div><svg onload=window.__hit=3>",
    "[a](javascript:window.__hit=4) <a href=\"javascript:window.__hit=5\">b</a> {{constructor.constructor('window.__hit=6')()}}",
    "abc \u{202e}txet desrever\u{202c} def\n\n```html\n<b onclick=window.__hit=7>code</b>\n\tindented\n```\nafter",
    "مرحبا بالعالم، هذا نص عربي طويل.\n\n你好，世界。这是一个中文段落。\n\nA line in English.",
    "  two spaces\n\n\nthree lines\n~~~\nno end of this fence\n  kept",
];

fn address(labelling: &Labelling, name: &str) -> String {
    format!("http://{}/#name={name}", labelling.address)
}

/// Opens the page and waits for its first item.
fn open(browser: &mut Browser, labelling: &Labelling, name: &str) {
    browser.open(&address(labelling, name));
    browser.wait_for("document.querySelector('.response')");
}

/// The texts of the responses, in the order in which they are shown.
fn shown(browser: &mut Browser) -> Vec<String> {
    let texts = browser.run("return [...document.querySelectorAll('.response .text')].map((own) => own.textContent)");
    serde_json::from_value(texts).unwrap()
}

/// Moves to a response with `j`.
fn go_to(browser: &mut Browser, index: usize, count: usize) {
    let here = browser.run("return Number(document.querySelector('.here').dataset.index)").as_u64().unwrap() as usize;
    browser.press(&vec!["j"; (index + count - here) % count]);
}

/// Presses Enter and waits until this many items are finished.
fn submit(browser: &mut Browser, finished: usize) {
    browser.press(&["Enter"]);
    browser.wait_for(&format!(
        "document.querySelector('#mine').textContent === '{finished} done by you' && !document.querySelector('.response.done')"
    ));
}

fn judgments(folder: &Folder) -> Vec<Judgment> {
    Labels::read(&folder.join("labels")).unwrap().read.judgments
}

/// No request to another host, and nothing in the console.
fn assert_alone(browser: &mut Browser, labelling: &Labelling) {
    let (requests, messages) = browser.requests_and_messages();
    let own = format!("http://{}/", labelling.address);
    // The browser's own first page has addresses of other schemes.
    let is_foreign = |url: &&String| {
        url.split(':').next().is_some_and(|scheme| ["http", "https", "ws", "wss"].contains(&scheme))
            && !url.starts_with(&own)
    };
    let foreign: Vec<&String> = requests.iter().filter(is_foreign).take(5).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(requests.iter().filter(|url| url.starts_with(&own)).count() > 5, "{} requests", requests.len());
    // Chromium logs refused requests, of which some tests make one.
    let messages: Vec<_> = messages.iter().filter(|message| !message.contains("status of 4")).collect();
    assert!(messages.is_empty(), "{messages:?}");
}

#[test]
fn ten_items_are_ranked_by_keyboard_alone() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    write_items(&folder, 10, 4);
    let labelling = Labelling::start(&folder, &[]);
    browser.open(&format!("http://{}/", labelling.address));
    browser.wait_for("document.activeElement.id === 'name'");
    browser.press(&["a", "n", "n", "Enter"]);
    browser.wait_for("document.querySelector('.response')");
    for number in 0..10 {
        let places: Vec<String> =
            qualities(&json!(shown(&mut browser))).iter().map(|quality| quality.to_string()).collect();
        let keys: Vec<&str> = places.iter().map(String::as_str).collect();
        match number % 3 {
            // Each digit moves on to the next response.
            0 => browser.press(&keys),
            // From the last to the first.
            1 => {
                for index in (0..4).rev() {
                    go_to(&mut browser, index, 4);
                    browser.press(&[keys[index]]);
                }
            }
            // A mistake that is put right.
            _ => {
                browser.press(&["4", "k", keys[0]]);
                browser.press(&keys[1..]);
            }
        }
        if number == 9 {
            browser.press(&["Enter"]);
            browser.wait_for("document.querySelector('#end-title').textContent.startsWith('Nothing is left')");
        } else {
            submit(&mut browser, number + 1);
        }
    }
    assert_alone(&mut browser, &labelling);
    labelling.stop();
    let labels = Labels::read(&folder.join("labels")).unwrap();
    assert_eq!(labels.read.judgments.len(), 10);
    for judgment in &labels.read.judgments {
        let item = labels.items.iter().find(|item| item.id == judgment.item).unwrap();
        let expected: Vec<u32> = qualities(&json!(item.responses)).iter().map(|own| *own as u32).collect();
        assert_eq!(judgment.ranks.as_ref(), Some(&expected), "{judgment:?}");
        assert!(judgment.annotator == "ann" && (0.0..60.0).contains(&judgment.seconds), "{judgment:?}");
    }
}

#[test]
fn ties_marks_comments_skips_and_the_way_to_an_earlier_answer() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    write_items(&folder, 3, 3);
    let labelling = Labelling::start(&folder, &[]);
    open(&mut browser, &labelling, "ann");
    // An incomplete order is not sent.
    browser.press(&["1", "Enter"]);
    browser.wait_for("document.querySelector('#message').textContent === 'B, C have no place yet.'");
    // Second and third tie with the first; the second is marked; a comment with keys that mean something
    // elsewhere.
    browser.press(&["=", "=", "k", "f", "1", "3", "f", "c", "s", "u", "1", "Enter"]);
    let order = shown(&mut browser);
    // A draft survives a reload.
    browser.open(&address(&labelling, "ann"));
    browser.wait_for("document.querySelectorAll('.response.done').length === 3");
    assert_eq!(shown(&mut browser), order);
    submit(&mut browser, 1);
    browser.press(&["s"]);
    browser.wait_for("document.querySelector('#skip-dialog').open");
    let skipped = shown(&mut browser);
    browser.press(&["2"]);
    browser.wait_for("document.querySelector('#mine').textContent === '2 done by you'");
    // The next item is shown after the count.
    browser.wait_for(&format!(
        "document.querySelector('.response') && !document.body.textContent.includes('{}')",
        skipped[0]
    ));
    let labels = judgments(&folder);
    assert_eq!(labels[0].ranks, Some(vec![1, 1, 1]));
    assert_eq!((labels[0].comment.as_deref(), labels[1].skipped.as_deref()), (Some("su1"), Some("needs expertise")));
    let marked = labels[0].flags.iter().position(|flags| !flags.is_empty()).unwrap();
    assert_eq!(
        (marked, &labels[0].flags[marked]),
        (labels[0].order[1], &vec!["unsafe".to_owned(), "cut off".to_owned()])
    );
    // Twice back, another order, and forth.
    let current = shown(&mut browser);
    browser.press(&["u"]);
    browser.wait_for("document.querySelector('#editing').textContent.includes('answer 2 of 2')");
    browser.press(&["u"]);
    browser.wait_for("document.querySelector('#editing').textContent.includes('answer 1 of 2')");
    assert_eq!(shown(&mut browser), order);
    browser.press(&["3", "j", "j"]);
    browser.press(&["1", "Enter"]);
    browser.wait_for("document.querySelector('#editing').hidden && document.querySelector('.response')");
    assert_eq!(shown(&mut browser), current);
    let labels = judgments(&folder);
    let by_place: Vec<u32> = labels[0].order.iter().map(|&index| labels[0].ranks.as_ref().unwrap()[index]).collect();
    assert_eq!((by_place, labels.len()), (vec![2, 1, 1], 2));
    // Guideline and keys.
    browser.press(&["g"]);
    browser.wait_for("document.querySelector('#guideline').innerText.includes('Helpfulness')");
    browser.press(&["?"]);
    browser.wait_for("document.querySelector('#keys-dialog').open");
    assert_alone(&mut browser, &labelling);
    labelling.stop();
}

#[test]
fn scores_and_pairs_are_given_by_keyboard() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    write_items(&folder, 4, 2);
    let labelling = Labelling::start(&folder, &["--ask", "score"]);
    open(&mut browser, &labelling, "ann");
    // Tab moves to the next response.
    browser.press(&["k", "k", "6"]);
    browser.wait_for("document.querySelector('.here').dataset.index === '1'");
    browser.press(&["Shift+Tab", "7", "3", "8", "Enter"]);
    browser.wait_for("document.querySelector('#mine').textContent === '1 done by you'");
    assert_alone(&mut browser, &labelling);
    labelling.stop();
    let scored = &judgments(&folder)[0];
    let by_place: Vec<f64> = scored.order.iter().map(|&index| scored.scores.as_ref().unwrap()[index]).collect();
    assert_eq!((scored.ask, by_place), (Ask::Score, vec![7.0, 3.0]));

    std::fs::remove_dir_all(folder.join("labels")).unwrap();
    let labelling = Labelling::start(&folder, &["--ask", "pair"]);
    open(&mut browser, &labelling, "ann");
    for (number, keys) in [&["Left"][..], &["Left", "Shift+Right"], &["="], &["Right", "b"]].iter().enumerate() {
        browser.press(keys);
        browser.press(&["Enter"]);
        browser.wait_for(&format!("document.querySelector('#mine').textContent === '{} done by you'", number + 1));
        browser.wait_for("!document.querySelector('.response.done') || document.querySelector('#work').hidden");
    }
    assert_alone(&mut browser, &labelling);
    labelling.stop();
    let said: Vec<_> = judgments(&folder)
        .iter()
        .map(|own| {
            let ranks = own.ranks.as_ref().unwrap();
            (own.order.iter().map(|&index| ranks[index]).collect::<Vec<_>>(), own.strength, own.both_bad)
        })
        .collect();
    let expected = [
        (vec![1, 2], Some(Strength::Better), false),
        (vec![2, 1], Some(Strength::Much), false),
        (vec![1, 1], None, false),
        (vec![1, 1], None, true),
    ];
    assert_eq!(said, expected);
}

#[test]
fn responses_are_dragged_into_an_order() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    write_items(&folder, 2, 3);
    let labelling = Labelling::start(&folder, &[]);
    browser.resize(1280, 800);
    open(&mut browser, &labelling, "ann");
    let letter = |index: usize| format!(".response[data-index='{index}'] .letter");
    browser.drag(&letter(1), "#order .gap");
    browser.wait_for("document.querySelectorAll('.response.done').length === 1");
    // Before it, and onto it.
    browser.drag(&letter(2), "#order .gap");
    browser.wait_for("document.querySelectorAll('.response.done').length === 2");
    browser.drag(&letter(0), "#order .tier:nth-of-type(5)");
    browser.wait_for("document.querySelectorAll('.response.done').length === 3");
    submit(&mut browser, 1);
    labelling.stop();
    let judgment = &judgments(&folder)[0];
    let by_place: Vec<u32> = judgment.order.iter().map(|&index| judgment.ranks.as_ref().unwrap()[index]).collect();
    assert_eq!(by_place, [2, 2, 1]);
}

#[test]
fn markup_is_inert_and_every_text_is_shown_as_it_is() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    let item = |responses: &[&str]| json!({ "prompt": HOSTILE[0], "responses": responses });
    let long = format!("{}\n<script>window.__hit = 8</script>", "long line of text\n".repeat(60_000));
    folder.write_rows("items.jsonl", &[item(&HOSTILE), item(&[&long, "short"])]);
    folder
        .write("guide.md", "# Guide\n\n<script>window.__hit = 9</script>\n\n<img src=x onerror=\"window.__hit=9\">\n");
    let labelling = Labelling::start(&folder, &["--guideline", "guide.md"]);
    open(&mut browser, &labelling, "%3Cimg%20src=x%20onerror=window.__hit=10%3E");
    let mut seen = Vec::new();
    for number in 1..=2 {
        let texts = shown(&mut browser);
        assert_eq!(browser.run("return document.querySelector('#prompt .text').textContent"), HOSTILE[0]);
        let style = "getComputedStyle(document.querySelector('.pane .prose')).whiteSpaceCollapse";
        assert_eq!(browser.run(&format!("return {style}")), "preserve");
        let places: Vec<String> = (1..=texts.len()).map(|place| place.to_string()).collect();
        if texts.len() == 5 {
            let font = "getComputedStyle(document.querySelector('.code')).fontFamily.includes('mono')";
            browser.wait_for(font);
            let direction =
                "[...document.querySelectorAll('.prose')].find((own) => own.textContent.startsWith('مرحبا'))";
            browser.wait_for(&format!("getComputedStyle({direction}).direction === 'rtl'"));
        } else {
            // Scrolled together, as far as each goes.
            browser.run("document.querySelectorAll('.pane').forEach((own) => { own.scrollTop = 300; })");
        }
        seen.extend(texts);
        browser.press(&places.iter().map(String::as_str).collect::<Vec<_>>());
        browser.press(&["Enter"]);
        browser.wait_for(&format!("document.querySelector('#mine').textContent === '{number} done by you'"));
        browser
            .wait_for("document.querySelector('#end').hidden === false || !document.querySelector('.response.done')");
    }
    let mut expected: Vec<&str> = HOSTILE.iter().copied().chain([long.as_str(), "short"]).collect();
    expected.sort_unstable();
    seen.sort_unstable();
    assert!(seen == expected, "every text, character for character");
    assert!(
        browser.run("return document.querySelector('#guideline').textContent").as_str().unwrap().contains("<script>")
    );
    assert_eq!(browser.run("return window.__hit ?? null"), Value::Null);
    assert_alone(&mut browser, &labelling);
    labelling.stop();
}

#[test]
fn everything_fits_at_both_widths() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    for (responses, ask) in [(2, "pair"), (4, "rank"), (9, "rank"), (3, "score")] {
        write_items(&folder, 3, responses);
        let out = format!("labels-{responses}-{ask}");
        let labelling = Labelling::start(&folder, &["--ask", ask, "--scale", "10", "--out", &out]);
        open(&mut browser, &labelling, "ann");
        for (width, height) in [(1280, 800), (800, 900)] {
            browser.resize(width, height);
            let fits =
                "document.documentElement.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight";
            browser.wait_for(fits);
            let inside = "const box = document.querySelector('#submit').getBoundingClientRect(); \
                          return box.right <= innerWidth && box.bottom <= innerHeight";
            assert_eq!(browser.run(inside), json!(true), "{width} wide, {responses} responses");
            let overlong = "return [...document.querySelectorAll('.response, .response header, .values')] \
                            .filter((own) => own.scrollWidth > own.clientWidth + 1).length";
            assert_eq!(browser.run(overlong), json!(0), "{width} wide, {responses} responses");
        }
        labelling.stop();
    }
}

#[test]
fn a_lost_service_costs_nothing() {
    let folder = Folder::empty();
    let Some(mut browser) = Browser::start(&folder.join("profile")) else { return };
    write_items(&folder, 3, 2);
    let labelling = Labelling::start(&folder, &[]);
    open(&mut browser, &labelling, "ann");
    browser.press(&["2", "1"]);
    let (listen, texts) = (labelling.address.to_string(), shown(&mut browser));
    labelling.kill();
    browser.press(&["Enter"]);
    browser.wait_for("document.querySelector('#message').textContent.startsWith('Not saved')");
    let labelling = Labelling::start(&folder, &["--listen", &listen]);
    submit(&mut browser, 1);
    let judgment = &judgments(&folder)[0];
    let by_place: Vec<u32> = judgment.order.iter().map(|&index| judgment.ranks.as_ref().unwrap()[index]).collect();
    assert_eq!((by_place, texts.len()), (vec![2, 1], 2));
    // The owner sees it.
    browser.open(&format!("http://{}/owner#token={}", labelling.address, labelling.owner_token));
    browser.wait_for("document.querySelector('#numbers').innerText.includes('1 of 9')");
    let mut other = Annotator::new(&labelling, "Ann");
    assert_eq!(other.ask("/api/next", json!({})).status, 400);
    labelling.stop();
}
