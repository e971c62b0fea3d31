//! Reading from somebody who may never come to an end.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// In which [`SLOWEST`] bytes have to come; slower than that is a server that only keeps us busy.
const WINDOW: Duration = Duration::from_secs(30);
const SLOWEST: u64 = 30 << 10;

/// Fails where bytes come too slowly to ever be all.
pub(super) struct Patient<R> {
    inner: R,
    window: Duration,
    /// Time spent waiting for the other side. What our own takes between two reads (a slow disk) does not count.
    waited: Duration,
    /// What came in that time.
    bytes: u64,
}

impl<R> Patient<R> {
    pub(super) fn new(inner: R) -> Patient<R> {
        Patient { inner, window: WINDOW, waited: Duration::ZERO, bytes: 0 }
    }
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let read = self.inner.read(into)?;
        self.waited += begun.elapsed();
        self.bytes += read as u64;
        if self.waited >= self.window {
            if read > 0 && self.bytes < SLOWEST {
                let what = format!("only {} bytes came in {} s", self.bytes, self.waited.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte now and then.
    struct Drip(Duration);

    impl Read for Drip {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.0);
            into[0] = 0;
            Ok(1)
        }
    }

    #[test]
    fn a_drip_is_no_stream() {
        let drip = Patient::new(Drip(Duration::from_millis(5)));
        let mut slow = Patient { window: Duration::from_millis(50), ..drip };
        let err = io::copy(&mut slow, &mut io::sink()).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    }
}
