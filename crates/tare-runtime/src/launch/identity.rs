//! Becoming the user of the spec, with its capabilities and nothing else.
//!
//! Loading a filter without no_new_privs needs `CAP_SYS_ADMIN`, and the filter is loaded last of all, so that a
//! profile need not allow what only we do. So that one capability is kept to the end where it is needed, and
//! dropped by [`Identity::settle`] just before exec.

use oci_spec::runtime::Process;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use tare_sys::{Context, Error, Kind, Result};

use crate::capability::Sets;
use crate::seccomp::Compiled;
use crate::user::User;

/// Who we have become.
pub struct Identity {
    sets: Sets,
    /// `CAP_SYS_ADMIN` is still there for the filter's sake.
    keeps_admin: bool,
}

/// Becomes root of the user namespace that we are in.
pub fn become_root(keep_groups: bool) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .doing(|| "setresgid(0, 0, 0)")
        .map_err(|err| explain_id(err, true))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .doing(|| "setresuid(0, 0, 0)")
        .map_err(|err| explain_id(err, true))?;
    if !keep_groups {
        set_groups(&[], 0)?;
    }
    hide()
}

/// Makes this process unreadable to others of its user: it still holds files of the host (CVE-2016-9962).
pub fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "prctl(PR_SET_DUMPABLE)")
}

fn set_groups(ids: &[u32], own: u32) -> Result<()> {
    let groups: Vec<Gid> = ids.iter().map(|id| Gid::from_raw(*id)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace with a single id has given up setgroups(2); then there is nothing to drop either, and none
        // but its own to have.
        Err(Errno::PERM) if ids.iter().all(|id| *id == own) => Ok(()),
        Err(Errno::PERM) => Err(Errno::PERM).doing(|| format!("setgroups({ids:?})")).map_err(|err| {
            err.hint(
                "a user namespace that maps one id only cannot have additional groups (user_namespaces(7))",
            )
        }),
        result => result.doing(|| format!("setgroups({ids:?})")).map_err(|err| explain_id(err, false)),
    }
}

impl Identity {
    /// Becomes the user. Answers with what could not quite be given as well.
    pub fn take(
        process: &Process,
        user: &User,
        filter: Option<&Compiled>,
    ) -> Result<(Identity, Vec<String>)> {
        let no_new_privileges = process.no_new_privileges() == Some(true);
        let sets = Sets::of(process.capabilities().as_ref());
        sets.limit_bounding()?;
        rustix::thread::set_keep_capabilities(true).doing(|| "prctl(PR_SET_KEEPCAPS)")?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        if let Some(groups) = &user.groups {
            set_groups(groups, user.gid)?;
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .doing(|| format!("setresgid({})", user.gid))
            .map_err(|err| explain_id(err, false))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .doing(|| format!("setresuid({})", user.uid))
            .map_err(|err| explain_id(err, false))?;
        rustix::thread::set_keep_capabilities(false).doing(|| "prctl(PR_SET_KEEPCAPS)")?;
        // Changing the uid made us dumpable by the container's own root again where the host says so.
        hide()?;
        let keeps_admin = filter.is_some() && !no_new_privileges && !sets.has_admin();
        let warnings = sets.apply(keeps_admin)?;
        let mask = process.user().umask().unwrap_or(0o022);
        rustix::process::umask(Mode::from_raw_mode(mask));
        if no_new_privileges {
            rustix::thread::set_no_new_privs(true).doing(|| "prctl(PR_SET_NO_NEW_PRIVS)")?;
        }
        Ok((Identity { sets, keeps_admin }, warnings))
    }

    /// Drops what was kept for the filter.
    pub fn settle(&self) -> Result<()> {
        if self.keeps_admin { self.sets.drop_admin() } else { Ok(()) }
    }
}

fn explain_id(err: Error, root: bool) -> Error {
    match err.errno() {
        Some(Errno::INVAL) if root => err
            .with_kind(Kind::Usage)
            .hint("the container's user namespace has to map an id to its root (containerID 0)"),
        Some(Errno::INVAL) => err.with_kind(Kind::Usage).hint(
            "the container's user namespace does not map this id; use one that it maps, or --userns=host",
        ),
        _ => err,
    }
}
