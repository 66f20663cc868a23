//! What TensorBoard shows of a PPO run's evaluations as images, read back from the event files.

use protobuf::Message;
use tensorboard_proto::event::Event;

use crate::util::Folder;

/// An image of an event file.
#[derive(Debug, PartialEq)]
struct Picture {
    step: i64,
    tag: String,
    width: u32,
    height: u32,
    /// Three bytes a pixel.
    pixels: Vec<u8>,
}

impl Picture {
    fn has(&self, colour: [u8; 3]) -> bool {
        self.pixels.chunks(3).any(|pixel| pixel == colour)
    }
}

/// The images of a run, by step and tag.
fn pictures(folder: &Folder, run: &str) -> Vec<Picture> {
    let mut found = Vec::new();
    for bytes in folder.files(&format!("{run}/tensorboard")).values() {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Length, its checksum, the event, its checksum.
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = Event::parse_from_bytes(&rest[12..12 + length]).unwrap();
            rest = &rest[12 + length + 4..];
            for value in event.get_summary().get_value().iter().filter(|value| value.has_image()) {
                let image = value.get_image();
                let (info, mut reader) = png::Decoder::new(image.get_encoded_image_string()).read_info().unwrap();
                let mut pixels = vec![0; info.buffer_size()];
                reader.next_frame(&mut pixels).unwrap();
                assert_eq!((info.color_type, info.bit_depth), (png::ColorType::RGB, png::BitDepth::Eight));
                assert_eq!(image.get_colorspace(), 3, "RGB");
                let (width, height) = (image.get_width() as u32, image.get_height() as u32);
                assert_eq!((info.width, info.height), (width, height));
                found.push(Picture { step: event.get_step(), tag: value.get_tag().to_owned(), width, height, pixels });
            }
        }
    }
    found.sort_by(|a, b| (a.step, &a.tag).cmp(&(b.step, &b.tag)));
    found
}

/// A PPO run on twelve held-out prompts, evaluated every second step.
fn ppo(folder: &Folder, out: &str, sets: &[&str]) {
    folder.write_rows("held.jsonl", &folder.rows("data/ppo.jsonl")[..12]);
    let common = ["data.eval_prompts='held.jsonl'", "ppo.value_warmup_steps=2", "run.eval_every=2"];
    let flags: Vec<&str> = common.iter().chain(sets).flat_map(|set| ["--set", *set]).collect();
    folder.succeed(&[&["ppo", "--config", "ppo.toml", "--out", out, "--resume"], &flags[..]].concat());
}

/// Colours of the first and of the second line of a plot.
const BLUE: [u8; 3] = [37, 99, 235];
const ORANGE: [u8; 3] = [217, 119, 6];

#[test]
fn every_evaluation_is_drawn_once_however_the_run_came_to_its_end() {
    let folder = Folder::new();
    ppo(&folder, "runs/whole", &["ppo.steps=6", "reward.second='reward'"]);
    let whole = pictures(&folder, "runs/whole");
    let found: Vec<(i64, &str)> = whole.iter().map(|picture| (picture.step, picture.tag.as_str())).collect();
    let tags = ["frontier/held", "reward_by_length/held"];
    assert_eq!(found, [2, 4, 6].map(|step| tags.map(|tag| (step, tag))).concat());
    for picture in &whole {
        let Picture { width, height, .. } = *picture;
        assert!(width == 350 && (250..400).contains(&height), "{width} × {height}: TensorBoard's frames are 350 wide");
        assert!(picture.has(BLUE) && picture.has([255; 3]), "{}", picture.tag);
        assert_eq!(picture.has(ORANGE), picture.tag.starts_with("frontier"), "a line for each reward model");
    }
    assert!(whole[0].pixels != whole[2].pixels && whole[2].pixels != whole[4].pixels, "the path grows");

    // The end of a run of five steps calls for an evaluation there, which is none of a run of six.
    ppo(&folder, "runs/extended", &["ppo.steps=5", "reward.second='reward'"]);
    assert_eq!(pictures(&folder, "runs/extended").len(), 6);
    ppo(&folder, "runs/extended", &["ppo.steps=6", "reward.second='reward'"]);
    assert!(pictures(&folder, "runs/extended") == whole);

    // A checkpoint before the last evaluation: that one is made and drawn again.
    for late in ["checkpoints/step-000006", "model", "value"] {
        std::fs::remove_dir_all(folder.join("runs/extended").join(late)).unwrap();
    }
    let run = folder.read("runs/extended/run.json").replace("\"finished_step\"", "\"was_finished_step\"");
    folder.write("runs/extended/run.json", run);
    ppo(&folder, "runs/extended", &["ppo.steps=6", "reward.second='reward'"]);
    assert!(pictures(&folder, "runs/extended") == whole);
}

#[test]
fn what_is_not_measured_is_not_drawn() {
    let folder = Folder::new();
    ppo(&folder, "runs/one", &["ppo.steps=2", "data.eval_prompts='data/heldout-prompts.jsonl'"]);
    let found = pictures(&folder, "runs/one");
    assert_eq!(found.len(), 1, "six responses make no ten groups");
    assert_eq!(found[0].tag, "frontier/heldout-prompts");
    assert!(found[0].has(BLUE) && !found[0].has(ORANGE), "there is one reward model");
}
