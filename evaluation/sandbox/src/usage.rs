//! What a running program uses of what no rlimit bounds: all its files together, and its threads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Limits;

/// The limit that a program exceeds, if it does, as the end of "the program …".
pub(crate) fn excess(process: u32, work_folder: &Path, limits: &Limits) -> Option<String> {
    if threads(process) > limits.threads {
        return Some(format!("had more than {} threads", limits.threads));
    }
    let (files, bytes) = in_folder(work_folder, limits);
    if files > limits.files {
        return Some(format!("made more than {} files", limits.files));
    }
    (bytes + removed_but_open(process) > limits.disk).then(|| format!("wrote more than {} MiB", limits.disk >> 20))
}

/// The number of files and folders, and the disk space that they take. Counting stops at the limits, and follows no
/// links.
fn in_folder(work_folder: &Path, limits: &Limits) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![work_folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // The program may have removed it by now.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            files += 1;
            bytes += metadata.blocks() * 512;
            if files > limits.files || bytes > limits.disk {
                return (files, bytes);
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (files, bytes)
}

/// The disk space of files that have no name any more and are open.
fn removed_but_open(process: u32) -> u64 {
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let metadata = open.filter_map(|entry| fs::metadata(entry.path()).ok());
    metadata
        .filter(|metadata| metadata.is_file() && metadata.nlink() == 0)
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

/// The number of threads; 0 where the system does not say.
fn threads(process: u32) -> u64 {
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{process}/status"))).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
