//! Warnings that last: told when they begin, now and then while they last, and once when they are over.

use serde::{Deserialize, Serialize};

/// Steps after which a warning that lasts is told again. Our choice.
const REMIND_AFTER: u64 = 50;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// What tells it from others, whatever its numbers are.
    pub name: String,
    /// What is wrong, with its numbers.
    pub text: String,
    /// What is said when it is over.
    pub over: String,
}

/// What is told of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something has gone wrong.
    Begins(String),
    /// It still is, since that step.
    Lasts(u64, String),
    /// It no longer is.
    Over(String),
}

impl News {
    /// The line about the step that makes `done` steps.
    pub fn line(&self, done: u64) -> String {
        match self {
            News::Begins(text) => format!("warning: step {done}: {text}"),
            News::Lasts(since, text) => format!("warning: step {done}, since step {since}: {text}"),
            News::Over(text) => format!("step {done}: {text}"),
        }
    }
}

/// The warnings that last; what a resume needs to go on telling like a run that was never stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lasting(Vec<Warning>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Warning {
    name: String,
    over: String,
    /// Steps done when it began, and when it was told last.
    since: u64,
    told: u64,
}

impl Lasting {
    /// What to tell when `alarms` are all that is wrong with the step that makes `done` steps: first what is over.
    pub fn update(&mut self, done: u64, alarms: &[Alarm]) -> Vec<News> {
        let (lasting, over) =
            std::mem::take(&mut self.0).into_iter().partition(|old| alarms.iter().any(|alarm| alarm.name == old.name));
        self.0 = lasting;
        let over: Vec<Warning> = over;
        let mut news: Vec<News> = over.into_iter().map(|warning| News::Over(warning.over)).collect();
        for Alarm { name, text, over } in alarms.iter().cloned() {
            match self.0.iter_mut().find(|old| old.name == name) {
                None => {
                    news.push(News::Begins(text));
                    self.0.push(Warning { name, over, since: done, told: done });
                }
                Some(old) if done >= old.told + REMIND_AFTER => {
                    old.told = done;
                    news.push(News::Lasts(old.since, text));
                }
                Some(_) => {}
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(name: &str, number: u64) -> Alarm {
        let text = format!("{name} is {number}");
        Alarm { name: name.to_owned(), text, over: format!("{name} is fine again") }
    }

    /// `a` is wrong in steps 3 to 120, `b` in 100 and 119 to 121.
    fn wrong(step: u64) -> Vec<Alarm> {
        let a = (3..=120).contains(&step).then(|| alarm("a", step));
        let b = (step == 100 || (119..=121).contains(&step)).then(|| alarm("b", step));
        a.into_iter().chain(b).collect()
    }

    fn told(lasting: &mut Lasting, steps: std::ops::RangeInclusive<u64>) -> Vec<String> {
        steps.flat_map(|step| lasting.update(step, &wrong(step)).into_iter().map(move |news| news.line(step))).collect()
    }

    const LINES: [&str; 8] = [
        "warning: step 3: a is 3",
        "warning: step 53, since step 3: a is 53",
        "warning: step 100: b is 100",
        "step 101: b is fine again",
        "warning: step 103, since step 3: a is 103",
        "warning: step 119: b is 119",
        "step 121: a is fine again",
        "step 122: b is fine again",
    ];

    #[test]
    fn a_warning_is_told_when_it_begins_every_fifty_steps_and_when_it_is_over() {
        assert_eq!(told(&mut Lasting::default(), 1..=200), LINES);
    }

    #[test]
    fn what_is_told_does_not_depend_on_a_stop_in_between() {
        for stop in 1..130 {
            let mut lasting = Lasting::default();
            let before = told(&mut lasting, 1..=stop);
            let saved = serde_json::to_string(&lasting).unwrap();
            let after = told(&mut serde_json::from_str(&saved).unwrap(), stop + 1..=200);
            assert_eq!([before, after].concat(), LINES, "stopped at {stop}");
        }
    }
}
