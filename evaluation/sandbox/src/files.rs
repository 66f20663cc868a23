//! Which files a program may use: Landlock rules.
//!
//! Read: the interpreter's libraries and what the dynamic linker and the C library need. Execute: the interpreter and
//! the dynamic linker. Write: the work folder. Source: https://docs.kernel.org/userspace-api/landlock.html.

use std::os::fd::OwnedFd;
use std::path::Path;

use align_core::error::{Error, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};

use crate::{Python, Rule};

/// The version whose rights are asked for. A kernel that knows fewer applies those that it knows; the first version is
/// required.
const RIGHTS: ABI = ABI::V6;

/// Folders that every program may read, and files of the C library's. `/nix/store` and `/gnu/store` hold nothing
/// private.
const SYSTEM: [&str; 13] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/share",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
];

/// A Landlock rule set for one program; without a work folder, the program may write nowhere.
///
/// # Errors
/// If the kernel has no Landlock.
pub(crate) fn ruleset(rules: &[Rule], python: &Python, work_folder: Option<&Path>) -> Result<OwnedFd> {
    match built(rules, python, work_folder) {
        Ok(Some(ruleset)) => Ok(ruleset),
        Ok(None) => Err(Error::invalid(
            "sandbox",
            "this kernel has no Landlock, expected Linux 5.13 or newer with it enabled; \
             --unsafe-execution runs programs with limits only",
        )),
        Err(error) => Err(Error::Failed(format!("sandbox: Landlock refuses its rules: {error}"))),
    }
}

fn built(
    rules: &[Rule],
    python: &Python,
    work_folder: Option<&Path>,
) -> std::result::Result<Option<OwnedFd>, RulesetError> {
    let (read, execute) = (AccessFs::ReadFile | AccessFs::ReadDir, BitFlags::from(AccessFs::Execute));
    let write = AccessFs::from_write(RIGHTS);
    let by_rule = [(Rule::Read, read), (Rule::Write, write), (Rule::Execute, execute)];
    let is_kept = |(rule, _): &&(Rule, BitFlags<AccessFs>)| rules.contains(rule);
    let handled = by_rule.iter().filter(is_kept).fold(BitFlags::EMPTY, |all, (_, access)| all | *access);

    let mut ruleset = Ruleset::default().handle_access(handled)?;
    if rules.contains(&Rule::Sockets) {
        ruleset = ruleset.handle_access(AccessNet::from_all(RIGHTS))?.scope(Scope::AbstractUnixSocket)?;
    }
    if rules.contains(&Rule::Signals) {
        ruleset = ruleset.scope(Scope::Signal)?;
    }
    let mut ruleset = ruleset.create()?;

    let special = AccessFs::MakeSock | AccessFs::MakeFifo | AccessFs::MakeBlock | AccessFs::MakeChar;
    let devices = (Path::new("/dev/null"), read | AccessFs::WriteFile);
    let allowed = SYSTEM
        .iter()
        .map(|path| (Path::new(path), read))
        .chain(python.readable().map(|path| (path, read)))
        .chain(python.executables().map(|path| (path, read | execute)))
        .chain(work_folder.map(|path| (path, read | write & !special)))
        .chain([devices]);
    for (path, access) in allowed {
        // What this system does not have needs no rule.
        let Ok(opened) = PathFd::new(path) else { continue };
        let of_kind = if path.is_dir() { access } else { access & AccessFs::from_file(RIGHTS) };
        let access = of_kind & handled;
        if !access.is_empty() {
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(ruleset.into())
}
