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
    match in_folder(work_folder, limits) {
        Err(reason) => Some(reason),
        Ok(bytes) => {
            let bytes = bytes + removed_but_open(process);
            (bytes > limits.disk).then(|| format!("wrote more than {} MiB", limits.disk >> 20))
        }
    }
}

/// The disk space of the files in a folder, or why they are too many. Follows no links.
fn in_folder(work_folder: &Path, limits: &Limits) -> Result<u64, String> {
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![work_folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                return Err("nested its folders too deeply".to_owned());
            }
            entries => entries.into_iter().flatten(),
        };
        // The program may have removed an entry by now.
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            files += 1;
            bytes += metadata.blocks() * 512;
            if files > limits.files {
                return Err(format!("made more than {} files", limits.files));
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(bytes)
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
