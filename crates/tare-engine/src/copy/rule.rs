//! Docker's rules of `cp`: what a path asks for, and where the copy goes. Pure.

use tare_sys::{Error, Kind, Result};

/// What a source path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its last part; empty where there is none.
    pub name: Vec<u8>,
    /// It ends with `/.`: not the folder is meant, but what is in it.
    pub contents: bool,
    /// It ends with `/` or `/.`, so it has to be a folder, and a link to one is followed.
    pub must_be_folder: bool,
    /// It is a folder.
    pub folder: bool,
}

impl Wish {
    /// Reads a path.
    pub fn of(path: &[u8]) -> Wish {
        let contents = path == b"." || path == b".." || path.ends_with(b"/.") || path.ends_with(b"/..");
        let (_, name) = split(path);
        // The root has no name; all that can be copied is what is in it.
        let contents = contents || name.is_empty();
        Wish { name, contents, must_be_folder: contents || path.ends_with(b"/"), folder: false }
    }

    /// Now that it was looked at.
    pub fn found(mut self, folder: bool) -> Result<Wish> {
        if self.must_be_folder && !folder {
            let name = String::from_utf8_lossy(&self.name).into_owned();
            return Err(Error::new(Kind::Usage, format!("{name}: not a directory"))
                .hint("leave out the slash at its end"));
        }
        self.folder = folder;
        Ok(self)
    }
}

/// Where the copy goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Into the destination, which is a folder, one by one.
    Contents,
    /// Into the destination, which is a folder, under this name.
    Below(Vec<u8>),
    /// To the destination, under its own name.
    Named,
}

/// Decides. `there`: whether the destination is there, and is a folder.
pub fn destination(wish: &Wish, path: &[u8], there: Option<bool>) -> Result<Destination> {
    let must_be_folder = path.ends_with(b"/") || path.ends_with(b"/.");
    let shown = String::from_utf8_lossy(path);
    match there {
        Some(true) if wish.folder && wish.contents => Ok(Destination::Contents),
        Some(true) => Ok(Destination::Below(wish.name.clone())),
        Some(false) if must_be_folder => Err(Error::new(Kind::Usage, format!("{shown}: not a directory"))),
        Some(false) if wish.folder => {
            Err(Error::new(Kind::Usage, format!("cannot copy directory: {shown} is a file"))
                .hint("name a folder, or something that is not there yet"))
        }
        Some(false) => Ok(Destination::Named),
        None if must_be_folder && !wish.folder => {
            Err(Error::new(Kind::NotFound, format!("no such directory: {shown}"))
                .hint("the folder has to exist; without the slash at its end it is the name of the copy"))
        }
        None => Ok(Destination::Named),
    }
}

/// The folder that a path lies in, and its last part, whatever slashes it ends with.
pub fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut path = path;
    loop {
        match path {
            [rest @ .., b'/'] => path = rest,
            [rest @ .., b'/', b'.'] => path = rest,
            [b'.'] => path = b"",
            _ => break,
        }
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/".to_vec(), path[1..].to_vec()),
        Some(at) => (path[..at].to_vec(), path[at + 1..].to_vec()),
        None => (b".".to_vec(), path.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source, whether it is a folder; destination, whether it is there and is one.
    fn decided(source: &str, folder: bool, to: &str, there: Option<bool>) -> String {
        let wish = match Wish::of(source.as_bytes()).found(folder) {
            Ok(wish) => wish,
            Err(err) => return err.to_string(),
        };
        match destination(&wish, to.as_bytes(), there) {
            Ok(Destination::Contents) => "contents".to_owned(),
            Ok(Destination::Below(name)) => format!("below as {}", String::from_utf8_lossy(&name)),
            Ok(Destination::Named) => "named".to_owned(),
            Err(err) => err.to_string(),
        }
    }

    #[test]
    fn dockers_table() {
        let (file, folder) = (false, true);
        let (none, a_file, a_folder) = (None, Some(false), Some(true));
        for (source, kind, to, there, decision) in [
            ("/a/f", file, "/b", none, "named"),
            ("/a/f..", file, "/b", none, "named"),
            ("/a/f", file, "/b/", none, "no such directory: /b/"),
            ("/a/f", file, "/b", a_file, "named"),
            ("/a/f", file, "/b/", a_file, "/b/: not a directory"),
            ("/a/f", file, "/b", a_folder, "below as f"),
            ("/a/f", file, "/b/", a_folder, "below as f"),
            ("/a/f/", file, "/b", a_folder, "f: not a directory"),
            ("/a/f/.", file, "/b", a_folder, "f: not a directory"),
            ("/a/d", folder, "/b", none, "named"),
            ("/a/d", folder, "/b/", none, "named"),
            ("/a/d/.", folder, "/b", none, "named"),
            ("/a/d", folder, "/b", a_file, "cannot copy directory: /b is a file"),
            ("/a/d", folder, "/b", a_folder, "below as d"),
            ("/a/d/", folder, "/b", a_folder, "below as d"),
            ("/a/d/.", folder, "/b", a_folder, "contents"),
            ("/", folder, "/b", a_folder, "contents"),
            (".", folder, "/b", a_folder, "contents"),
            ("d", folder, "/b", a_folder, "below as d"),
        ] {
            assert_eq!(decided(source, kind, to, there), decision, "{source} to {to}");
        }
    }

    #[test]
    fn paths_are_split() {
        for (path, parent, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b//", "/a", "b"),
            ("/a/b/.", "/a", "b"),
            ("/a", "/", "a"),
            ("a", ".", "a"),
            ("/", ".", ""),
            ("", ".", ""),
            ("a/b", "a", "b"),
        ] {
            let (found, last) = split(path.as_bytes());
            assert_eq!((&*found, &*last), (parent.as_bytes(), name.as_bytes()), "{path}");
        }
    }
}
