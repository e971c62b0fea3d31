//! One thing on its way from a source to a destination.

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A folder.
    Folder,
    /// A regular file of so many bytes, which come beside the item.
    File(u64),
    /// A link with this target, as it stands.
    Link(Vec<u8>),
    /// Another name for an item that came before, by its path.
    Again(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A device or a socket.
    Other,
}

/// The thing and its attributes, ids as the source sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Below what is copied; empty for that itself.
    pub path: Vec<u8>,
    /// What it is.
    pub sort: Sort,
    /// The lower twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes that may travel: `user.*`, and file capabilities.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether an extended attribute may travel.
pub fn travels(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}
