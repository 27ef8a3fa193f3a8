//! The header of a GGUF file: settings and the table of tensors, checked before candle reads the same bytes.
//!
//! Versions 2 and 3, little-endian: magic, version, counts, settings (key, type, value), tensors (name, sizes, type,
//! offset), then the tensors' bytes from the next multiple of the alignment on. See `docs/gguf.md` of ggml.
//!
//! Invariants: nothing is allocated that the bytes do not justify; a key or a name stands once; spans of tensors lie
//! within the file, aligned, and do not overlap; every size that the model implies was multiplied without overflow.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// First bytes of a file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Settings, at most; files have some dozens.
const SETTINGS_MOST: u64 = 1_000;
/// Tensors, at most; 80 layers have 723.
const TENSORS_MOST: u64 = 10_000;
/// Bytes of a key or of a tensor's name, at most.
const NAME_BYTES: usize = 512;
/// Bytes of a setting that is a text, at most: templates have some ten thousand.
const TEXT_BYTES: usize = 1 << 20;
/// Bytes of a text in a list, at most.
const ITEM_BYTES: usize = 4 << 10;
/// Items of a list, at most: tokens, merges.
const ITEMS_MOST: u64 = 1 << 20;
/// Alignment where the file does not say.
const ALIGNMENT: u64 = 32;
/// Alignment, at most.
const ALIGNMENT_MOST: u64 = 1 << 16;

/// A setting. Numbers in lists are kept as integers, floating-point ones as nothing: no list of them is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// An unsigned integer of 32 bits, the type that the sizes of a model must have.
    U32(u32),
    /// A floating-point number of 32 bits.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of integers.
    Numbers(Vec<i64>),
    /// Of a type that nobody asks for.
    Other,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Sizes as the file gives them: of the contiguous direction first.
    pub sizes: Vec<u64>,
    /// Type of its values.
    pub kind: u32,
    /// First byte, counted from the start of the tensors.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Settings and tensors of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    /// By key.
    pub settings: BTreeMap<String, Setting>,
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Values and bytes of a block of a type that is known: f32, f16, bf16 and the quantised ones.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        _ => return None,
    })
}

impl Header {
    /// Reads the header of a whole file. `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is no GGUF or of another version, [`Error::Corrupt`] with the offset of what
    /// contradicts itself, [`Error::Limit`] for what is larger than any model has it.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { name, bytes, at: 0 };
        if reader.take(4).ok() != Some(MAGIC.as_slice()) {
            return Err(Error::input(format!("{name} is no GGUF file: it does not begin with GGUF")));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Error::input(format!(
                "{name} is a GGUF file of version {version}; 2 and 3 are read"
            )));
        }
        let tensors = reader.u64()?;
        let settings = reader.u64()?;
        reader.limit("the number of tensors", tensors, TENSORS_MOST)?;
        reader.limit("the number of settings", settings, SETTINGS_MOST)?;
        let mut header = Self::default();
        for _ in 0..settings {
            let at = reader.at;
            let key = reader.text(NAME_BYTES)?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            if header.settings.insert(key.clone(), value).is_some() {
                return Err(reader.wrong(at, format!("the setting {key:?} stands twice")));
            }
        }
        for _ in 0..tensors {
            let at = reader.at;
            let tensor_name = reader.text(NAME_BYTES)?;
            let tensor = reader.tensor(&tensor_name)?;
            if header.tensors.insert(tensor_name.clone(), tensor).is_some() {
                return Err(reader.wrong(at, format!("the tensor {tensor_name:?} stands twice")));
            }
        }
        header.check_spans(&reader)?;
        Ok(header)
    }

    /// Checks that the tensors lie in the file, aligned, and apart.
    fn check_spans(&self, reader: &Reader<'_>) -> Result<()> {
        let alignment = match self.settings.get("general.alignment") {
            None => ALIGNMENT,
            Some(Setting::U32(n)) if n.is_power_of_two() && u64::from(*n) <= ALIGNMENT_MOST => u64::from(*n),
            Some(_) => return Err(reader.wrong(0, "the alignment is not a power of two up to 65536".into())),
        };
        let start = (reader.at as u64).next_multiple_of(alignment);
        let room = (reader.bytes.len() as u64).saturating_sub(start);
        let mut spans: Vec<(u64, u64, &str)> = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let end = tensor.offset.checked_add(tensor.bytes).filter(|&end| end <= room);
            let Some(end) = end.filter(|_| tensor.offset.is_multiple_of(alignment)) else {
                let what = format!(
                    "the tensor {name:?} of {} bytes shall lie at {}, and there are {room} bytes in steps of {alignment}",
                    tensor.bytes, tensor.offset
                );
                return Err(reader.wrong(start as usize, what));
            };
            spans.push((tensor.offset, end, name));
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [(_, end, first), (from, _, second)] = pair
                && from < end
            {
                return Err(
                    reader.wrong(start as usize, format!("the tensors {first:?} and {second:?} overlap"))
                );
            }
        }
        Ok(())
    }
}

/// Reads from the front, and never beyond the end.
struct Reader<'a> {
    name: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, at: usize, what: String) -> Error {
        Error::corrupt(self.name, at as u64, what)
    }

    fn limit(&self, what: &str, actual: u64, limit: u64) -> Result<()> {
        if actual <= limit {
            return Ok(());
        }
        let raise = "embdb reads no model like that: use another one".to_owned();
        Err(Error::Limit { what: format!("{}: {what}", self.name), limit, actual, raise })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.wrong(self.at, "the file ends within its header".into()))?;
        self.at += count;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        let mut fixed = [0; N];
        fixed.copy_from_slice(taken);
        Ok(fixed)
    }

    fn u32(&mut self) -> Result<u32> {
        self.fixed().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.fixed().map(u64::from_le_bytes)
    }

    fn text(&mut self, most: usize) -> Result<String> {
        let at = self.at;
        let length = self.u64()?;
        self.limit("a text, in bytes,", length, most as u64)?;
        let bytes = self.take(length as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong(at, "a text is not UTF-8".into()))?;
        Ok(text.to_owned())
    }

    /// A value of a type.
    fn value(&mut self, kind: u32) -> Result<Setting> {
        Ok(match kind {
            4 => Setting::U32(self.u32()?),
            6 => Setting::F32(f32::from_le_bytes(self.fixed()?)),
            7 => match self.fixed::<1>()? {
                [0] => Setting::Bool(false),
                [1] => Setting::Bool(true),
                [other] => return Err(self.wrong(self.at - 1, format!("a truth value is {other}"))),
            },
            8 => Setting::Text(self.text(TEXT_BYTES)?),
            9 => self.list()?,
            _ => {
                let width = self.width(kind)?;
                self.take(width)?;
                Setting::Other
            }
        })
    }

    /// Bytes of a number of a type.
    fn width(&self, kind: u32) -> Result<usize> {
        match kind {
            0 | 1 | 7 => Ok(1),
            2 | 3 => Ok(2),
            4..=6 => Ok(4),
            10..=12 => Ok(8),
            _ => Err(self.wrong(self.at, format!("a setting of the unknown type {kind}"))),
        }
    }

    fn list(&mut self) -> Result<Setting> {
        let at = self.at;
        let kind = self.u32()?;
        let count = self.u64()?;
        self.limit("the length of a list", count, ITEMS_MOST)?;
        let count = count as usize;
        match kind {
            8 => (0..count).map(|_| self.text(ITEM_BYTES)).collect::<Result<_>>().map(Setting::Texts),
            9 => Err(self.wrong(at, "a list of lists".into())),
            _ => {
                let width = self.width(kind)?;
                // At most 8 MiB, and no more than the file has.
                let bytes = self.take(count * width)?;
                let number = |item: &[u8]| {
                    let mut wide = [0; 8];
                    wide.iter_mut().zip(item).for_each(|(to, from)| *to = *from);
                    let value = i64::from_le_bytes(wide);
                    // Signed types fill what is above them with their sign.
                    let unused = 64 - 8 * width as u32;
                    if matches!(kind, 1 | 3 | 5) { value << unused >> unused } else { value }
                };
                Ok(match kind {
                    6 | 12 => Setting::Other,
                    _ => Setting::Numbers(bytes.chunks_exact(width).map(number).collect()),
                })
            }
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let at = self.at;
        let dims = self.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(self.wrong(at, format!("the tensor {name:?} has {dims} dimensions")));
        }
        let sizes = (0..dims).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        let kind = self.u32()?;
        let offset = self.u64()?;
        let Some((values, width)) = block(kind) else {
            return Err(self.wrong(at, format!("the tensor {name:?} is of the unknown type {kind}")));
        };
        let total = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let bytes = total.filter(|&total| total > 0).and_then(|total| (total / values).checked_mul(width));
        let whole = sizes.first().is_some_and(|first| first.is_multiple_of(values));
        match bytes {
            Some(bytes) if whole => Ok(Tensor { sizes, kind, offset, bytes }),
            _ => {
                Err(self
                    .wrong(at, format!("the tensor {name:?} has the sizes {sizes:?}, which it cannot have")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Gguf, Value};
    use super::*;

    fn read(bytes: &[u8]) -> Result<Header> {
        Header::read("m.gguf", bytes)
    }

    fn small() -> Gguf {
        let mut file = Gguf::default();
        file.set("general.architecture", Value::Text("llama"));
        file.set("x.count", Value::U32(7));
        file.set("x.list", Value::Numbers(vec![1, -2]));
        file.set("x.words", Value::Texts(vec!["a".into(), "b".into()]));
        file.tensor("w", &[32, 2], 8, vec![1; 68]);
        file.tensor("v", &[3], 0, vec![0; 12]);
        file
    }

    #[test]
    fn settings_and_tensors_are_read() {
        let header = read(&small().bytes()).unwrap();
        assert_eq!(header.settings["x.count"], Setting::U32(7));
        assert_eq!(header.settings["x.list"], Setting::Numbers(vec![1, -2]));
        assert_eq!(header.settings["x.words"], Setting::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(header.tensors["w"], Tensor { sizes: vec![32, 2], kind: 8, offset: 0, bytes: 68 });
        assert_eq!((header.tensors["v"].offset, header.tensors["v"].bytes), (96, 12));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = small().bytes();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
        }
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let with = |change: &dyn Fn(&mut Gguf)| {
            let mut file = small();
            change(&mut file);
            read(&file.bytes()).unwrap_err().to_string()
        };
        type Change<'a> = &'a dyn Fn(&mut Gguf);
        let cases: [(Change<'_>, &str); 9] = [
            (&|f| f.version = 1, "version 1"),
            // Written by a machine of the other byte order.
            (&|f| f.version = 3 << 24, "version"),
            (&|f| f.set("x.count", Value::U32(1)), "stands twice"),
            (&|f| f.set("general.alignment", Value::U32(0)), "alignment"),
            (&|f| f.set("general.alignment", Value::U32(24)), "alignment"),
            (&|f| f.tensor("w", &[32], 8, vec![0; 34]), "stands twice"),
            (&|f| f.tensor("z", &[31], 8, vec![0; 34]), "cannot have"),
            (&|f| f.tensor("z", &[u64::MAX, 3], 0, vec![]), "cannot have"),
            (&|f| f.tensor("z", &[3], 99, vec![]), "unknown type 99"),
        ];
        for (change, words) in cases {
            let message = with(change);
            assert!(message.contains(words), "{words}: {message}");
        }
        let mut file = small();
        file.tensor_at("z", &[8], 0, 64);
        assert!(read(&file.bytes()).unwrap_err().to_string().contains("overlap"));
        file = small();
        file.tensor_at("z", &[8], 0, 1 << 40);
        assert!(read(&file.bytes()).unwrap_err().to_string().contains("shall lie at"));
        assert_eq!(read(b"PK..").unwrap_err().exit_code(), 1);
    }

    #[test]
    fn counts_that_no_file_justifies_allocate_nothing() {
        for (at, limit) in [(8, true), (16, true)] {
            let mut bytes = small().bytes();
            bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert_eq!(read(&bytes).unwrap_err().exit_code() == 5, limit);
        }
        // A list of a million texts in a file of a few bytes.
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([0u64, 1, 1].map(u64::to_le_bytes).concat());
        bytes.push(b'k');
        bytes.extend([9u32, 8].map(u32::to_le_bytes).concat());
        bytes.extend((1u64 << 20).to_le_bytes());
        assert!(read(&bytes).unwrap_err().to_string().contains("ends within"));
    }
}
