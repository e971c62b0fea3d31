//! Sparse files: where in a file the data of its entry go. Between them are holes, which are made as holes.
//!
//! | format        | where the map is                                                             |
//! |---------------|------------------------------------------------------------------------------|
//! | old GNU (`S`) | four places in the header, 21 in each block that follows it                  |
//! | PAX 0.0       | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, a pair for each place |
//! | PAX 0.1       | a record `GNU.sparse.map`: numbers with commas between them                  |
//! | PAX 1.0       | decimal numbers, one a line, in front of the data, filled up to a block      |
//!
//! (GNU tar's manual, appendix E, "Sparse Formats".) The map is kept in memory, so it is limited like an extension
//! header; what it describes costs nothing, so the file's size is limited by [`Limits::sparse`](super::Limits).

use tare_sys::Result;

use super::header::{BLOCK, number};

/// A run of data in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it begins.
    pub(super) at: u64,
    /// Bytes.
    pub(super) length: u64,
}

/// What a file consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    /// In order, without overlap, all within `size`.
    pieces: Vec<Piece>,
    /// Bytes of the file, holes included.
    pub(super) size: u64,
}

impl Map {
    /// Checks what an archive says: `data` is how many bytes it brings.
    pub(super) fn new(pieces: Vec<Piece>, size: u64, data: u64) -> Result<Map, String> {
        let mut end = 0;
        let mut sum = 0u64;
        for piece in &pieces {
            let piece_end = piece.at.checked_add(piece.length).filter(|end| *end <= size);
            match piece_end {
                Some(piece_end) if piece.at >= end => end = piece_end,
                _ => return Err("the map of its sparse file makes no sense".to_owned()),
            }
            // No overflow: the pieces lie side by side within `size`.
            sum += piece.length;
        }
        if sum != data {
            return Err(format!("the map of its sparse file wants {sum} bytes, and {data} are there"));
        }
        Ok(Map { pieces, size })
    }

    /// Hands data on as they come, with the place where they go.
    pub(super) fn spread(&self) -> Spread<'_> {
        Spread { pieces: &self.pieces, within: 0 }
    }
}

/// How far the data of a sparse file have come.
pub(super) struct Spread<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that are there.
    within: u64,
}

impl Spread<'_> {
    /// Splits what comes next at the holes.
    pub(super) fn write(
        &mut self,
        mut data: &[u8],
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        while let ([piece, rest @ ..], false) = (self.pieces, data.is_empty()) {
            let left = piece.length - self.within;
            let (now, later) = data.split_at(data.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if !now.is_empty() {
                write(piece.at + self.within, now)?;
            }
            self.within += now.len() as u64;
            data = later;
            if self.within == piece.length {
                (self.pieces, self.within) = (rest, 0);
            }
        }
        Ok(())
    }
}

/// Bytes of one place in a block: two numbers of twelve.
const PLACE: usize = 24;
/// Where the places begin in a header, and how many there are.
const IN_HEADER: (usize, usize) = (386, 4);
/// The same in a block that goes on with them.
const IN_BLOCK: (usize, usize) = (0, 21);

/// Reads the places that are in an old GNU header; whether more follow; and the file's size.
pub(super) fn of_header(block: &[u8; BLOCK], into: &mut Vec<Piece>) -> Result<(bool, u64), String> {
    let more = places(block, IN_HEADER, into)?;
    let size = number(&block[483..495]).and_then(|size| u64::try_from(size).ok());
    Ok((more, size.ok_or("its size is not a number")?))
}

/// Reads the places in a block behind the header; whether more follow.
pub(super) fn of_block(block: &[u8; BLOCK], into: &mut Vec<Piece>) -> Result<bool, String> {
    places(block, IN_BLOCK, into)
}

fn places(block: &[u8; BLOCK], (from, count): (usize, usize), into: &mut Vec<Piece>) -> Result<bool, String> {
    let (places, rest) = block[from..].split_at(count * PLACE);
    for place in places.chunks_exact(PLACE) {
        let (at, length) = place.split_at(PLACE / 2);
        if at[0] == 0 || length[0] == 0 {
            break;
        }
        let read = |field| number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(at), Some(length)) = (read(at), read(length)) else {
            return Err("the map of its sparse file is not made of numbers".to_owned());
        };
        into.push(Piece { at, length });
    }
    Ok(rest[0] != 0)
}

/// The map of PAX 1.0, block by block.
#[derive(Default)]
pub(super) struct Lines {
    /// How many places there are to be, once that is known.
    wanted: Option<u64>,
    /// The place whose length comes next.
    at: Option<u64>,
    digits: Option<u64>,
    pieces: Vec<Piece>,
}

impl Lines {
    /// Reads a block; the whole map, once it has come to its end.
    pub(super) fn read(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<Piece>>, String> {
        let wrong = || "the map of its sparse file is not made of numbers".to_owned();
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let so_far = self.digits.unwrap_or(0).checked_mul(10);
                    let digits = so_far.and_then(|n| n.checked_add(u64::from(byte - b'0')));
                    self.digits = Some(digits.ok_or_else(wrong)?);
                }
                b'\n' => {
                    let number = self.digits.take().ok_or_else(wrong)?;
                    match (self.wanted, self.at.take()) {
                        (None, _) => self.wanted = Some(number),
                        (Some(_), None) => self.at = Some(number),
                        (Some(_), Some(at)) => self.pieces.push(Piece { at, length: number }),
                    }
                    if self.wanted == Some(self.pieces.len() as u64) && self.at.is_none() {
                        return Ok(Some(std::mem::take(&mut self.pieces)));
                    }
                }
                _ => return Err(wrong()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text);
        block
    }

    #[test]
    fn lines_are_read_across_blocks() {
        let text = format!("100\n{}", "0\n512\n".repeat(100));
        let (head, tail) = text.as_bytes().split_at(BLOCK);
        let mut lines = Lines::default();
        assert_eq!(lines.read(&block(head)).unwrap(), None);
        assert_eq!(lines.read(&block(tail)).unwrap().unwrap().len(), 100);
        assert_eq!(Lines::default().read(&block(b"0\n")).unwrap(), Some(Vec::new()));
        for bad in [&b"x\n"[..], b"\n", b"99999999999999999999999\n", b"1\n-1\n0\n", b"1\n1 0\n"] {
            assert!(Lines::default().read(&block(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        let piece = |at, length| Piece { at, length };
        assert!(Map::new(vec![piece(0, 5), piece(10, 5), piece(20, 0)], 20, 10).is_ok());
        for (pieces, size, data) in [
            (vec![piece(0, 5), piece(4, 5)], 20, 10),
            (vec![piece(10, 5), piece(0, 5)], 20, 10),
            (vec![piece(16, 5)], 20, 5),
            (vec![piece(u64::MAX, 2)], u64::MAX, 2),
            (vec![piece(0, 5)], 20, 4),
        ] {
            assert!(Map::new(pieces.clone(), size, data).is_err(), "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_goes_where_the_map_says(
            gaps in proptest::collection::vec((0u64..20, 0u64..20), 0..8),
            cut in 1usize..9,
        ) {
            let mut pieces = Vec::new();
            let mut end = 0;
            let mut expected = Vec::new();
            let mut next = 0u8;
            let mut data = Vec::new();
            for (hole, length) in gaps {
                expected.resize(expected.len() + hole as usize, 0);
                pieces.push(Piece { at: end + hole, length });
                for _ in 0..length {
                    next = next.wrapping_add(1).max(1);
                    expected.push(next);
                    data.push(next);
                }
                end += hole + length;
            }
            let map = Map::new(pieces, end, data.len() as u64).unwrap();
            let mut file = vec![0; end as usize];
            let mut spread = map.spread();
            for chunk in data.chunks(cut) {
                spread.write(chunk, |at, bytes| {
                    file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
                    Ok(())
                }).unwrap();
            }
            prop_assert_eq!(file, expected);
        }

        #[test]
        fn any_block_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let block: [u8; BLOCK] = bytes.try_into().unwrap();
            let mut pieces = Vec::new();
            let _ = of_header(&block, &mut pieces);
            let _ = of_block(&block, &mut pieces);
            let _ = Lines::default().read(&block);
        }
    }
}
