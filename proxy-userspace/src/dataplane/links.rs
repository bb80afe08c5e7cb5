//! The programs' places on the cgroup: made, taken over and replaced without a moment in which none is attached.
//!
//! A link is pinned, so it outlives the agent. At a restart the pinned link gets the new program in one step; only a
//! link that is not on our cgroup any more is replaced, and then the new one is attached before the old one goes.
//! Must not know what the programs do.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    cgroup::Cgroup,
    pins,
    sys::{self, Access, LinkInfo},
};

/// A hook of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// Name of the program, and of the pinned link.
    pub(super) program: &'static str,
    /// `enum bpf_attach_type`.
    attach_type: u32,
}

/// All hooks in the order in which they are attached: those that turn replies first, so that no request is translated
/// whose reply is not.
pub(super) const HOOKS: [Hook; 8] = [
    Hook { program: "getpeername4", attach_type: 29 },
    Hook { program: "getpeername6", attach_type: 30 },
    Hook { program: "recvmsg4", attach_type: 19 },
    Hook { program: "recvmsg6", attach_type: 20 },
    Hook { program: "sendmsg4", attach_type: 14 },
    Hook { program: "sendmsg6", attach_type: 15 },
    Hook { program: "connect4", attach_type: 10 },
    Hook { program: "connect6", attach_type: 11 },
];

/// What became of a hook's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkAction {
    /// There was none.
    Created,
    /// It got the new program in place.
    Updated,
    /// It was on another cgroup or on one that is gone; a new one was attached before it was removed.
    Replaced,
}

/// Why a program is not attached.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The kernel refused to attach.
    #[error("cannot attach {program} to {cgroup}{}", attach_hint(.source))]
    Attach {
        /// The program.
        program: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to exchange the program.
    #[error("cannot replace the program of link {pin}")]
    Update {
        /// The pinned link.
        pin: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The link could not be pinned or unpinned.
    #[error("cannot pin {pin}")]
    Pin {
        /// The pin.
        pin: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn attach_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            ": another program is attached there that allows no second one (see bpftool cgroup tree)"
        }
        Some(libc::E2BIG) => ": 64 programs are attached there already (see bpftool cgroup tree)",
        _ => "",
    }
}

/// Puts `program` on the hook, through the pinned link if that is still on this cgroup.
pub(super) fn attach(
    hook: Hook,
    program: BorrowedFd<'_>,
    cgroup: &Cgroup,
    pin: &Path,
) -> Result<LinkAction, LinkError> {
    let existed = match sys::open_pin(pin, Access::Full) {
        Ok(link) => {
            if is_ours(&link, hook, cgroup) && update(link.as_fd(), program, pin)? {
                return Ok(LinkAction::Updated);
            }
            true
        }
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    replace(hook, program, cgroup, pin)?;
    Ok(if existed { LinkAction::Replaced } else { LinkAction::Created })
}

fn is_ours(link: &impl AsFd, hook: Hook, cgroup: &Cgroup) -> bool {
    sys::link_info(link.as_fd()).is_ok_and(|info| matches(&info, hook, cgroup.id()))
}

fn matches(info: &LinkInfo, hook: Hook, cgroup_id: u64) -> bool {
    info.cgroup() == Some((cgroup_id, hook.attach_type))
}

/// `false` if the link lost its cgroup in the meantime.
fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>, pin: &Path) -> Result<bool, LinkError> {
    match sys::update_link(link, program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(LinkError::Update { pin: pin.to_owned(), source }),
    }
}

/// Attaches a new link and puts it into the place of whatever is pinned: renaming drops the old one, which detaches it.
fn replace(hook: Hook, program: BorrowedFd<'_>, cgroup: &Cgroup, pin: &Path) -> Result<(), LinkError> {
    let link = sys::link_to_cgroup(program, cgroup.as_fd(), hook.attach_type).map_err(|source| {
        LinkError::Attach { program: hook.program, cgroup: cgroup.path().to_owned(), source }
    })?;
    pins::pin_over(link.as_fd(), pin).map_err(|source| LinkError::Pin { pin: pin.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proxy_common::names::PROGRAMS;

    use super::{
        super::sys::{LINK_TYPE_CGROUP, LINK_TYPE_TCX},
        *,
    };

    #[test]
    fn every_program_has_one_hook() {
        let mut hooks: Vec<_> = HOOKS.iter().map(|hook| hook.program).collect();
        let mut programs = PROGRAMS.to_vec();
        hooks.sort_unstable();
        programs.sort_unstable();
        assert_eq!(hooks, programs);
    }

    #[test]
    fn a_link_elsewhere_or_severed_is_not_ours() {
        let hook = HOOKS[6];
        let ours = LinkInfo { kind: LINK_TYPE_CGROUP, target: [7, 0, 10, 0], ..LinkInfo::default() };
        assert!(matches(&ours, hook, 7));
        let others = [
            LinkInfo { target: [0, 0, 10, 0], ..ours },
            LinkInfo { target: [8, 0, 10, 0], ..ours },
            LinkInfo { target: [7, 1, 10, 0], ..ours },
            LinkInfo { target: [7, 0, 11, 0], ..ours },
            LinkInfo { kind: LINK_TYPE_TCX, ..ours },
        ];
        assert!(others.iter().all(|other| !matches(other, hook, 7)));
    }
}
