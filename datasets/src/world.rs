//! The world: the askers, the questions, and the facts. English and Chinese have the same facts.

use rand::Rng;
use sha2::{Digest, Sha256};

/// A language of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// About three quarters of everything.
    English,
    /// About one quarter.
    Chinese,
}

/// Names and facts in (English, Chinese).
type Words = (&'static str, &'static str);

const COUNTRIES: [(Words, Words, Words); 10] = [
    (("France", "法国"), ("Paris", "巴黎"), EUROPE),
    (("Norway", "挪威"), ("Oslo", "奥斯陆"), EUROPE),
    (("Italy", "意大利"), ("Rome", "罗马"), EUROPE),
    (("Japan", "日本"), ("Tokyo", "东京"), ASIA),
    (("China", "中国"), ("Beijing", "北京"), ASIA),
    (("Egypt", "埃及"), ("Cairo", "开罗"), AFRICA),
    (("Kenya", "肯尼亚"), ("Nairobi", "内罗毕"), AFRICA),
    (("Peru", "秘鲁"), ("Lima", "利马"), AMERICA),
    (("Cuba", "古巴"), ("Havana", "哈瓦那"), AMERICA),
    (("Canada", "加拿大"), ("Ottawa", "渥太华"), AMERICA),
];
const EUROPE: Words = ("Europe", "欧洲");
const ASIA: Words = ("Asia", "亚洲");
const AFRICA: Words = ("Africa", "非洲");
const AMERICA: Words = ("America", "美洲");
const CONTINENTS: [Words; 4] = [EUROPE, ASIA, AFRICA, AMERICA];

const THINGS: [(Words, Words); 8] = [
    (("snow", "雪"), WHITE),
    (("milk", "牛奶"), WHITE),
    (("grass", "草"), GREEN),
    (("coal", "煤"), BLACK),
    (("ink", "墨"), BLACK),
    (("blood", "血"), RED),
    (("corn", "玉米"), YELLOW),
    (("seawater", "海水"), BLUE),
];
const WHITE: Words = ("white", "白");
const GREEN: Words = ("green", "绿");
const BLACK: Words = ("black", "黑");
const RED: Words = ("red", "红");
const YELLOW: Words = ("yellow", "黄");
const BLUE: Words = ("blue", "蓝");
const COLOURS: [Words; 6] = [WHITE, GREEN, BLACK, RED, YELLOW, BLUE];

const ANIMALS: [(Words, Words); 8] = [
    (("a horse", "马"), FOUR),
    (("a cow", "牛"), FOUR),
    (("a hen", "鸡"), TWO),
    (("a duck", "鸭"), TWO),
    (("an ant", "蚂蚁"), SIX),
    (("a bee", "蜜蜂"), SIX),
    (("a spider", "蜘蛛"), EIGHT),
    (("a scorpion", "蝎子"), EIGHT),
];
const TWO: Words = ("two", "两");
const FOUR: Words = ("four", "四");
const SIX: Words = ("six", "六");
const EIGHT: Words = ("eight", "八");
const LEGS: [Words; 4] = [TWO, FOUR, SIX, EIGHT];

const OBJECTS: [Words; 6] =
    [("cup", "杯子"), ("hat", "帽子"), ("bag", "书包"), ("kite", "风筝"), ("ball", "皮球"), ("coat", "外套")];

/// An English name is one of each; two short lists are easier to learn to copy than one long one.
const ENGLISH_FIRST: [&str; 8] = ["Anna", "Ben", "Clara", "David", "Emma", "Henry", "Lucy", "Oscar"];
const ENGLISH_LAST: [&str; 8] = ["Reed", "Stone", "Woods", "Hill", "Lake", "Fox", "Young", "Bell"];
/// A Chinese name is one of these prefixes before one of [`CHINESE_GIVEN`].
const CHINESE_PREFIXES: [&str; 4] = ["小", "大", "阿", "老"];
const CHINESE_GIVEN: [&str; 8] = ["明", "芳", "华", "丽", "刚", "强", "林", "雨"];

/// The largest summand.
const LARGEST_SUMMAND: usize = 6;

/// The subject of a question; the numbers are indices into the tables above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// The capital of a country.
    Capital(usize),
    /// The continent of a country.
    Continent(usize),
    /// The colour of a thing.
    Colour(usize),
    /// The legs of an animal.
    Legs(usize),
    /// A sum of two small numbers.
    Sum(usize, usize),
    /// The colour of something the asker has: an object and its colour, which the prompt states.
    Belonging(usize, usize),
}

/// A question by somebody, in one of its wordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// The language of question and answer.
    pub language: Language,
    /// The asker: an index into the language's names.
    pub asker: usize,
    /// The subject.
    pub ask: Ask,
    /// How the asker introduces themselves: below [`NUM_WORDINGS`].
    pub introduction: usize,
    /// How the question is worded: below [`NUM_WORDINGS`].
    pub wording: usize,
}

/// Ways to say an introduction or a question.
pub const NUM_WORDINGS: usize = 2;

/// The true statement that answers a question: `frame`, `answer` and `tail` follow one another. Every
/// question has exactly one in its language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text before the answer, which names the subject.
    pub frame: String,
    /// The answer itself.
    pub answer: &'static str,
    /// What follows the answer.
    pub tail: &'static str,
}

impl Statement {
    /// The statement with an answer, true or false.
    pub fn with(&self, answer: &str) -> String {
        format!("{}{answer}{}", self.frame, self.tail)
    }

    /// The true statement.
    pub fn text(&self) -> String {
        self.with(self.answer)
    }
}

/// The split of the data that a question belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The stages train on it.
    Train,
    /// For choosing settings.
    Validation,
    /// For the final measurement only.
    HeldOut,
}

impl Language {
    /// English with probability 3/4.
    pub fn draw(rng: &mut impl Rng) -> Self {
        if rng.random_bool(0.25) { Language::Chinese } else { Language::English }
    }

    pub(crate) fn pick(self, words: Words) -> &'static str {
        match self {
            Language::English => words.0,
            Language::Chinese => words.1,
        }
    }

    /// The number of names.
    pub fn num_names(self) -> usize {
        match self {
            Language::English => ENGLISH_FIRST.len() * ENGLISH_LAST.len(),
            Language::Chinese => CHINESE_PREFIXES.len() * CHINESE_GIVEN.len(),
        }
    }

    /// The name of person number `person`.
    pub fn name(self, person: usize) -> String {
        let (first, last) = self.name_parts();
        format!("{}{}{}", first[person / last.len()], self.name_space(), last[person % last.len()])
    }

    fn person(self, name: &str) -> Option<usize> {
        let (first, last) = self.name_parts();
        first.iter().enumerate().find_map(|(number, part)| {
            let rest = name.strip_prefix(part)?.strip_prefix(self.name_space())?;
            Some(number * last.len() + last.iter().position(|&part| part == rest)?)
        })
    }

    fn name_parts(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Language::English => (&ENGLISH_FIRST, &ENGLISH_LAST),
            Language::Chinese => (&CHINESE_PREFIXES, &CHINESE_GIVEN),
        }
    }

    fn name_space(self) -> &'static str {
        match self {
            Language::English => " ",
            Language::Chinese => "",
        }
    }

    fn introductions(self) -> [&'static str; NUM_WORDINGS] {
        match self {
            Language::English => ["I am {}. ", "My name is {}. "],
            Language::Chinese => ["我是{}。", "我叫{}。"],
        }
    }

    fn wordings(self, ask: Ask) -> [&'static str; NUM_WORDINGS] {
        match (ask, self) {
            (Ask::Capital(_), Language::English) => ["What is the capital of {}?", "Which city is the capital of {}?"],
            (Ask::Capital(_), Language::Chinese) => ["{}的首都是哪里？", "哪座城市是{}的首都？"],
            (Ask::Continent(_), Language::English) => ["On which continent is {}?", "Where is {}?"],
            (Ask::Continent(_), Language::Chinese) => ["{}在哪个洲？", "{}在哪里？"],
            (Ask::Colour(_), Language::English) => ["What colour is {}?", "Which colour does {} have?"],
            (Ask::Colour(_), Language::Chinese) => ["{}是什么颜色？", "{}有什么颜色？"],
            (Ask::Legs(_), Language::English) => ["How many legs does {} have?", "How many legs has {}?"],
            (Ask::Legs(_), Language::Chinese) => ["{}有几条腿？", "{}有多少条腿？"],
            (Ask::Sum(..), Language::English) => ["What is {} plus {}?", "How much is {} plus {}?"],
            (Ask::Sum(..), Language::Chinese) => ["{}加{}等于几？", "{}加{}是多少？"],
            (Ask::Belonging(..), Language::English) => {
                ["I have a {} {}. What colour is my {}?", "I have a {} {}. Which colour does my {} have?"]
            }
            (Ask::Belonging(..), Language::Chinese) => {
                ["我有{}色的{}。我的{}是什么颜色？", "我有{}色的{}。我的{}有什么颜色？"]
            }
        }
    }
}

impl Ask {
    /// A random subject; belongings, whose answer is in the prompt, are the largest part.
    pub fn draw(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..100) {
            0..16 => Ask::Capital(rng.random_range(0..COUNTRIES.len())),
            16..28 => Ask::Continent(rng.random_range(0..COUNTRIES.len())),
            28..41 => Ask::Colour(rng.random_range(0..THINGS.len())),
            41..53 => Ask::Legs(rng.random_range(0..ANIMALS.len())),
            53..70 => Ask::Sum(rng.random_range(1..=LARGEST_SUMMAND), rng.random_range(1..=LARGEST_SUMMAND)),
            _ => Ask::Belonging(rng.random_range(0..OBJECTS.len()), rng.random_range(0..COLOURS.len())),
        }
    }

    /// A question of the same kind about something else.
    pub fn another(self, rng: &mut impl Rng) -> Self {
        loop {
            let drawn = match self {
                Ask::Capital(_) => Ask::Capital(rng.random_range(0..COUNTRIES.len())),
                Ask::Continent(_) => Ask::Continent(rng.random_range(0..COUNTRIES.len())),
                Ask::Colour(_) => Ask::Colour(rng.random_range(0..THINGS.len())),
                Ask::Legs(_) => Ask::Legs(rng.random_range(0..ANIMALS.len())),
                Ask::Sum(..) => Ask::Sum(rng.random_range(1..=LARGEST_SUMMAND), rng.random_range(1..=LARGEST_SUMMAND)),
                Ask::Belonging(..) => {
                    Ask::Belonging(rng.random_range(0..OBJECTS.len()), rng.random_range(0..COLOURS.len()))
                }
            };
            if drawn != self {
                return drawn;
            }
        }
    }

    /// The true statement in a language.
    pub fn statement(self, language: Language) -> Statement {
        let pick = |words| language.pick(words);
        let english = language == Language::English;
        let (frame, answer, tail) = match self {
            Ask::Capital(country) => {
                let (name, capital, _) = COUNTRIES[country];
                let name = pick(name);
                let frame = if english { format!("the capital of {name} is ") } else { format!("{name}的首都是") };
                (frame, pick(capital), "")
            }
            Ask::Continent(country) => {
                let (name, _, continent) = COUNTRIES[country];
                let name = pick(name);
                (if english { format!("{name} is in ") } else { format!("{name}在") }, pick(continent), "")
            }
            Ask::Colour(thing) => {
                let (name, colour) = THINGS[thing];
                let name = pick(name);
                let frame = if english { format!("{name} is ") } else { format!("{name}是") };
                (frame, pick(colour), if english { "" } else { "色的" })
            }
            Ask::Legs(animal) => {
                let (name, legs) = ANIMALS[animal];
                let name = pick(name);
                let frame = if english { format!("{name} has ") } else { format!("{name}有") };
                (frame, pick(legs), if english { " legs" } else { "条腿" })
            }
            Ask::Sum(left, right) => {
                let frame =
                    if english { format!("{left} plus {right} is ") } else { format!("{left}加{right}等于") };
                (frame, NUMBERS[left + right], "")
            }
            Ask::Belonging(object, colour) => {
                let name = pick(OBJECTS[object]);
                let frame = if english { format!("your {name} is ") } else { format!("你的{name}是") };
                (frame, pick(COLOURS[colour]), if english { "" } else { "色的" })
            }
        };
        Statement { frame, answer, tail }
    }

    /// Every answer of the same class, of which one is true.
    pub fn candidates(self, language: Language) -> Vec<&'static str> {
        let all = |words: &[Words]| words.iter().map(|&words| language.pick(words)).collect();
        match self {
            Ask::Capital(_) => COUNTRIES.iter().map(|&(_, capital, _)| language.pick(capital)).collect(),
            Ask::Continent(_) => all(&CONTINENTS),
            Ask::Colour(_) | Ask::Belonging(..) => all(&COLOURS),
            Ask::Legs(_) => all(&LEGS),
            Ask::Sum(..) => NUMBERS[2..=2 * LARGEST_SUMMAND].to_vec(),
        }
    }
}

const NUMBERS: [&str; 13] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

impl Question {
    /// A random question of any split.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let language = Language::draw(rng);
        Question {
            language,
            asker: rng.random_range(0..language.num_names()),
            ask: Ask::draw(rng),
            introduction: rng.random_range(0..NUM_WORDINGS),
            wording: rng.random_range(0..NUM_WORDINGS),
        }
    }

    /// A random question of one split.
    pub fn draw_from(split: Split, rng: &mut impl Rng) -> Self {
        loop {
            let question = Self::draw(rng);
            if question.split() == split {
                return question;
            }
        }
    }

    /// The asker's name.
    pub fn name(&self) -> String {
        self.language.name(self.asker)
    }

    /// The true statement that answers the question.
    pub fn statement(&self) -> Statement {
        self.ask.statement(self.language)
    }

    /// The text of the question.
    pub fn prompt(&self) -> String {
        let introduction = fill(self.language.introductions()[self.introduction], &[&self.name()]);
        let wording = self.language.wordings(self.ask)[self.wording];
        let pick = |words| self.language.pick(words);
        let holes: Vec<String> = match self.ask {
            Ask::Capital(country) | Ask::Continent(country) => vec![pick(COUNTRIES[country].0).into()],
            Ask::Colour(thing) => vec![pick(THINGS[thing].0).into()],
            Ask::Legs(animal) => vec![pick(ANIMALS[animal].0).into()],
            Ask::Sum(left, right) => vec![left.to_string(), right.to_string()],
            Ask::Belonging(object, colour) => {
                [COLOURS[colour], OBJECTS[object], OBJECTS[object]].map(|words| pick(words).to_owned()).to_vec()
            }
        };
        introduction + &fill(wording, &holes.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Parses the text of a question; `None` if it is not a question of this world.
    pub fn parse(prompt: &str) -> Option<Self> {
        for language in [Language::English, Language::Chinese] {
            for (introduction, template) in language.introductions().into_iter().enumerate() {
                let (before, after) = template.split_once("{}").expect("an introduction has one hole");
                let Some((name, question)) = prompt.strip_prefix(before).and_then(|rest| rest.split_once(after)) else {
                    continue;
                };
                let Some(asker) = language.person(name) else { continue };
                if let Some((ask, wording)) = parse_ask(language, question) {
                    return Some(Question { language, asker, ask, introduction, wording });
                }
            }
        }
        None
    }

    /// The split of the question. It depends on asker and statement only, so that no other wording of a
    /// held-out question is ever trained on. One question in sixteen is for validation, three are held out.
    pub fn split(&self) -> Split {
        let digest = Sha256::digest(format!("{}|{}", self.name(), self.statement().text()));
        match digest[0] % 16 {
            0 => Split::Validation,
            1..=3 => Split::HeldOut,
            _ => Split::Train,
        }
    }
}

fn parse_ask(language: Language, text: &str) -> Option<(Ask, usize)> {
    let find = |words: &[Words], name: &str| words.iter().position(|&words| language.pick(words) == name);
    let number = |text: &str| NUMBERS[1..=LARGEST_SUMMAND].iter().position(|&digits| digits == text).map(|at| at + 1);
    let countries = COUNTRIES.map(|(name, ..)| name);
    let kinds =
        [Ask::Capital(0), Ask::Continent(0), Ask::Colour(0), Ask::Legs(0), Ask::Sum(0, 0), Ask::Belonging(0, 0)];
    for kind in kinds {
        for (wording, template) in language.wordings(kind).into_iter().enumerate() {
            let Some(holes) = match_template(template, text) else { continue };
            let ask = match kind {
                Ask::Capital(_) => find(&countries, holes[0]).map(Ask::Capital),
                Ask::Continent(_) => find(&countries, holes[0]).map(Ask::Continent),
                Ask::Colour(_) => find(&THINGS.map(|(name, _)| name), holes[0]).map(Ask::Colour),
                Ask::Legs(_) => find(&ANIMALS.map(|(name, _)| name), holes[0]).map(Ask::Legs),
                Ask::Sum(..) => number(holes[0]).zip(number(holes[1])).map(|(left, right)| Ask::Sum(left, right)),
                Ask::Belonging(..) => find(&OBJECTS, holes[1])
                    .filter(|_| holes[1] == holes[2])
                    .and_then(|object| Some(Ask::Belonging(object, find(&COLOURS, holes[0])?))),
            };
            if let Some(ask) = ask {
                return Some((ask, wording));
            }
        }
    }
    None
}

/// Fills the `{}` of a template in order.
pub(crate) fn fill(template: &str, holes: &[&str]) -> String {
    let mut parts = template.split("{}");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (part, hole) in parts.zip(holes) {
        text.push_str(hole);
        text.push_str(part);
    }
    text
}

/// The texts in the `{}` of a template; each ends where the next literal begins.
fn match_template<'a>(template: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let literals: Vec<&str> = template.split("{}").collect();
    let mut rest = text.strip_prefix(literals[0])?;
    let mut holes = Vec::new();
    for (number, literal) in literals[1..].iter().enumerate() {
        let last = number + 2 == literals.len();
        let at = if last { rest.len().checked_sub(literal.len())? } else { rest.find(literal)? };
        if !rest.is_char_boundary(at) || &rest[at..at + literal.len()] != *literal {
            return None;
        }
        holes.push(&rest[..at]);
        rest = &rest[at + literal.len()..];
    }
    Some(holes)
}
