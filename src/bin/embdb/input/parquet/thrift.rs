//! A look over a structure of [Thrift's compact protocol] before the parquet crate reads it.
//!
//! The crate takes what it does not know one element at a time, as many as a list claims, and makes room for strings of any
//! length: a header of ten bytes could keep it busy for minutes or ask for all memory. Sound files claim no more than they hold.
//! Of the fields that it knows it does not look at the kinds that are told, so this is a sieve and no proof.
//!
//! [Thrift's compact protocol]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

use std::io::{self, ErrorKind, Read};

/// Structures within structures.
const DEPTH: usize = 64;

/// Passes over the structure at the beginning of `bytes`, which is there whole within the first `len` of them and has no more
/// elements in its lists.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where that is not so, and what reading comes to.
pub(super) fn look_over(bytes: impl Read, len: u64) -> io::Result<()> {
    Look { bytes, left: len, elements: len }.structure(DEPTH)
}

struct Look<R> {
    bytes: R,
    /// Bytes that may be read yet.
    left: u64,
    /// Elements that lists may have yet.
    elements: u64,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a header with {what}"))
}

impl<R: Read> Look<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.take(1)?;
        self.bytes.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Counts bytes that are read next.
    fn take(&mut self, count: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(count).ok_or_else(|| malformed("more bytes than are there"))?;
        Ok(())
    }

    fn pass(&mut self, count: u64) -> io::Result<()> {
        self.take(count)?;
        io::copy(&mut self.bytes.by_ref().take(count), &mut io::sink()).map(drop)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number that is too long"))
    }

    fn structure(&mut self, depth: usize) -> io::Result<()> {
        loop {
            let field = self.byte()?;
            if field & 0xf == 0 {
                return Ok(());
            }
            if field >> 4 == 0 {
                // The field's number, where it is not told as a difference.
                self.varint()?;
            }
            self.value(field & 0xf, depth)?;
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| malformed("too many levels"))?;
        match kind {
            // A truth value of a field is its kind. Those in lists the crate takes for nothing as well.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => self.varint().and_then(|count| self.pass(count)),
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                self.values(count, &[head & 0xf], depth)
            }
            11 => match self.varint()? {
                0 => Ok(()),
                count => {
                    let kinds = self.byte()?;
                    self.values(count, &[kinds >> 4, kinds & 0xf], depth)
                }
            },
            12 => self.structure(depth),
            13 => self.pass(16),
            _ => Err(malformed("a value of no kind")),
        }
    }

    /// So many times values of some kinds.
    fn values(&mut self, count: u64, kinds: &[u8], depth: usize) -> io::Result<()> {
        let left = self.elements.checked_sub(count);
        self.elements = left.ok_or_else(|| malformed("more elements than there are bytes"))?;
        (0..count).try_for_each(|_| kinds.iter().try_for_each(|&kind| self.value(kind, depth)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passing over some bytes comes to, and how many it left.
    fn passed(bytes: &[u8]) -> Result<usize, String> {
        let mut rest = bytes;
        look_over(&mut rest, bytes.len() as u64).map_err(|e| e.to_string())?;
        Ok(rest.len())
    }

    #[test]
    fn every_kind_of_value_is_passed_over() {
        let fields: [&[u8]; 12] = [
            &[0x11],                                                       // a truth value
            &[0x02, 0x80, 0x02],             // another, of a field whose number is told
            &[0x13, 0xff],                   // a byte
            &[0x15, 0xff, 0xff, 0x03],       // a number
            &[0x17, 1, 2, 3, 4, 5, 6, 7, 8], // a double
            &[0x18, 2, b'a', b'b'],          // a string
            &[0x19, 0x00],                   // an empty list as some writers have it
            &[0x19, 0x26, 1, 2],             // a list of two numbers
            &[0x1a, 0xf8, 0x02, 1, b'a', 0], // a set of two strings, its length apart
            &[0x1b, 2, 0x83, 1, b'a', 1, 1, b'b', 2], // a map of strings to bytes
            &[0x1c, 0x15, 2, 0x00],          // a structure
            &[0x1d, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], // a UUID
        ];
        let whole = [fields.concat(), vec![0]].concat();
        assert_eq!(passed(&[whole.clone(), vec![7; 3]].concat()), Ok(3));
        for end in 0..whole.len() {
            assert!(passed(&whole[..end]).unwrap_err().contains("more bytes than are there"), "{end}");
        }
        for field in fields {
            assert_eq!(passed(&[field, &[0]].concat()), Ok(0), "{field:?}");
        }
    }

    #[test]
    fn what_claims_more_than_is_there_is_refused() {
        let most = [0xff, 0xff, 0xff, 0xff, 0x07];
        let cases: [(Vec<u8>, &str); 7] = [
            ([&[0x19, 0xf1], &most[..], &[0; 9]].concat(), "more elements"),
            ([&[0x19, 0xf7], &most[..], &[0; 9]].concat(), "more elements"),
            ([&[0x19, 0x29, 0xf1, 9], &[0xf1, 9][..], &[0; 9]].concat(), "more elements"),
            ([&[0x1b], &most[..], &[0x11], &[0; 9]].concat(), "more elements"),
            ([&[0x18], &most[..], &[0; 9]].concat(), "more bytes"),
            ([&[0x16], &[0xff; 10][..]].concat(), "too long"),
            (vec![0x1e, 0], "no kind"),
        ];
        for (bytes, what) in cases {
            let error = passed(&bytes).unwrap_err();
            assert!(error.contains(what), "{bytes:x?}: {error}");
        }
        let nested = |levels: usize| [vec![0x1c; levels], vec![0; levels + 1]].concat();
        assert_eq!(passed(&nested(DEPTH)), Ok(0));
        assert!(passed(&nested(DEPTH + 1)).unwrap_err().contains("too many levels"));
    }
}
