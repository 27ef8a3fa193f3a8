//! Reading what is left of damaged files; nothing is ever written to them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use xxhash_rust::xxh3::xxh3_64;

use super::room::reserve;
use super::segment_file::Parts;
use super::vfs::{Bytes, Vfs};
use crate::error::{Error, Result};
use crate::format::attrs::Sections;
use crate::format::file::{DatabaseId, Kind, Layout};
use crate::format::frame::{Frame, FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::mend::{self, Piece, Remains};
use crate::format::segment::ids;
use crate::options::limits;

/// A container of which some pages may be damaged.
pub struct Salvaged {
    bytes: Bytes,
    layout: Layout,
    /// `None` if all of it is sound.
    remains: Option<Remains>,
    path: PathBuf,
}

impl Salvaged {
    /// Reads a container as far as it is sound; of this database, if one is given.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if nothing of it can be read; [`Error::Io`] if it is missing.
    pub fn open(vfs: &dyn Vfs, path: PathBuf, kind: Kind, database: Option<&DatabaseId>) -> Result<Self> {
        let bytes = vfs.map(&path)?;
        if let Ok(layout) = Layout::parse(&bytes, kind, &path)
            && database.is_none_or(|database| layout.database == *database)
            && layout.verify(&bytes, 0, bytes.len(), &path).is_ok()
        {
            return Ok(Self { bytes, layout, remains: None, path });
        }
        let mut copy = bytes.to_vec();
        let remains = mend::mend(&mut copy, kind, database, &path)?;
        let layout = remains.layout.clone();
        Ok(Self { bytes: Bytes::from(copy.as_slice()), layout, remains: Some(remains), path })
    }

    /// Bits that were turned back.
    pub fn turned(&self) -> u64 {
        self.remains.as_ref().map_or(0, |remains| remains.turned)
    }

    /// Whether anything of it is damaged still.
    pub fn is_damaged(&self) -> bool {
        self.remains.as_ref().is_some_and(|remains| remains.sound.contains(&false))
    }

    /// The whole file, as if its damaged pages had been written so.
    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// Elements of a section, sound or not, and where they lie in the file.
    pub fn raw<T: Pod>(&self, id: u32, from: usize, count: usize) -> Option<(&[T], Range<usize>)> {
        let section = self.layout.section(id)?;
        let start = section.start.checked_add(from.checked_mul(size_of::<T>())?)?;
        let end = start.checked_add(count.checked_mul(size_of::<T>())?)?;
        let part = self.bytes.get(start..end).filter(|_| end <= section.end)?;
        Some((bytemuck::try_cast_slice(part).ok()?, start..end))
    }
}

impl Parts for Salvaged {
    fn section_range<T: Pod>(&self, id: u32, from: usize, count: usize) -> Result<&[T]> {
        let (elements, place) = self
            .raw(id, from, count)
            .ok_or_else(|| self.corrupt(id, "an element lies outside its section"))?;
        match &self.remains {
            Some(remains) if !remains.is_sound(place) => Err(self.corrupt(id, "a page is damaged")),
            _ => Ok(elements),
        }
    }

    fn corrupt(&self, id: u32, what: &str) -> Error {
        let offset = self.layout.section(id).map_or(0, |range| range.start);
        Error::corrupt(&self.path, offset as u64, what)
    }
}

impl Sections for Salvaged {
    fn size(&self, section: u32) -> usize {
        self.layout.section(section).map_or(0, |range| range.len())
    }

    fn bytes(&self, section: u32, range: Range<usize>) -> Result<&[u8]> {
        self.section_range(section, range.start, range.end.saturating_sub(range.start))
    }
}

/// The ids of a segment. Each is stored with its hash, apart from it, so that one is believed also out of a damaged page
/// if the two agree.
pub struct SalvagedIds {
    file: Salvaged,
    hashes: Vec<Option<u64>>,
}

impl SalvagedIds {
    /// The ids in a file of kind [`Kind::Ids`].
    pub fn new(file: Salvaged) -> Self {
        let count = file.size(ids::SEQUENCES) / size_of::<u64>();
        let mut hashes = vec![None; count];
        for at in 0..count {
            if let (Some(([hash], _)), Some(([document], _))) =
                (file.raw::<u64>(ids::HASHES, at, 1), file.raw::<u32>(ids::ORDER, at, 1))
                && let Some(place) = hashes.get_mut(*document as usize)
            {
                *place = Some(*hash);
            }
        }
        Self { file, hashes }
    }

    /// The file itself.
    pub fn file(&self) -> &Salvaged {
        &self.file
    }

    /// Number of documents.
    pub fn len(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The id of a document, if it can be told.
    pub fn id(&self, document: u32) -> Option<&str> {
        let ([start, end], _) = self.file.raw::<u32>(ids::OFFSETS, document as usize, 2)? else {
            return None;
        };
        let (id, _) = self.file.raw::<u8>(ids::BYTES, *start as usize, end.checked_sub(*start)? as usize)?;
        let agrees = self.hashes.get(document as usize).copied().flatten() == Some(xxh3_64(id));
        std::str::from_utf8(id).ok().filter(|_| agrees)
    }

    /// The sequence number of a document; 0 if it cannot be told.
    pub fn sequence(&self, document: u32) -> u64 {
        let found = self.file.section_range(ids::SEQUENCES, document as usize, 1);
        found.ok().and_then(<[u64]>::first).copied().unwrap_or_default()
    }
}

/// What is left of a log or of a feedback file.
pub struct SalvagedLog {
    /// Its header.
    pub header: LogHeader,
    bytes: Vec<u8>,
    /// Bits that were turned back.
    pub turned: u64,
}

/// Something in a log, in its order.
#[derive(Debug)]
pub enum Record<'a> {
    /// A sound record.
    Sound(Frame<'a>),
    /// Damage.
    Damaged(Damaged<'a>),
}

/// Damaged bytes in a log.
#[derive(Debug)]
pub struct Damaged<'a> {
    /// Where they begin.
    pub offset: u64,
    /// Records that stood there, by the numbers of those around.
    pub records: u64,
    /// Types and payloads of those whose headers can be read.
    pub seen: Vec<(FrameType, &'a [u8])>,
}

impl SalvagedLog {
    /// Reads a log; turns back bits that flipped.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if its header cannot be read, without which no record can be told from noise.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let mut bytes = data_of(vfs, path)?;
        let before: Vec<u8> = bytes.iter().take(LOG_HEADER_LEN).copied().collect();
        mend::mend_log_header(&mut bytes);
        let header = LogHeader::parse(&bytes, path)?;
        let turned = u64::from(!bytes.starts_with(&before));
        let mut log = Self { header, bytes, turned };
        log.turn_back();
        Ok(log)
    }

    fn turn_back(&mut self) {
        let (mut at, salt) = (LOG_HEADER_LEN, self.header.salt);
        loop {
            let gap = match mend::next_piece(&self.bytes, at, salt) {
                None => break,
                Some(Piece::Frame(frame)) => {
                    at = frame.end as usize;
                    continue;
                }
                Some(Piece::Gap(gap)) => gap,
            };
            let found = self
                .bytes
                .get_mut(gap.clone())
                .is_some_and(|bytes| mend::mend_frame(bytes, gap.start as u64, salt));
            self.turned += u64::from(found);
            at = if found { gap.start } else { gap.end };
        }
    }

    /// Everything of whole batches, in order, up to `end` if that is known, and as much of others as lies before
    /// something sound: what stands at the very end without its COMMIT was never acknowledged.
    ///
    /// `before` is the sequence number of the last record in the log before this one, if that is known.
    pub fn records(&self, end: Option<u64>, before: Option<u64>) -> Vec<Record<'_>> {
        let end = end.map_or(self.bytes.len(), |end| self.bytes.len().min(end as usize));
        let (bytes, salt) = (&self.bytes[..end.max(LOG_HEADER_LEN).min(self.bytes.len())], self.header.salt);
        let (mut records, mut whole, mut at) = (Vec::new(), 0, LOG_HEADER_LEN);
        // The last sequence number, and where in `records` damage stands whose own are not known yet.
        let (mut sequence, mut open) = (before, None);
        while let Some(piece) = mend::next_piece(bytes, at, salt) {
            match piece {
                Piece::Frame(frame) => {
                    at = frame.end as usize;
                    if frame.kind == FrameType::Synced {
                        whole = records.len();
                        continue;
                    }
                    // A COMMIT has the number of the last record before it.
                    let is_record = frame.kind != FrameType::Commit;
                    let reached = frame.sequence.saturating_sub(u64::from(is_record));
                    if let Some(Record::Damaged(damaged)) =
                        open.take().and_then(|at: usize| records.get_mut(at))
                    {
                        damaged.records =
                            sequence.map_or(damaged.records, |last| reached.saturating_sub(last));
                    }
                    sequence = Some(frame.sequence);
                    if is_record { records.push(Record::Sound(frame)) } else { whole = records.len() }
                }
                Piece::Gap(gap) => {
                    at = gap.end;
                    let seen = mend::damaged_frames(&bytes[gap.clone()], salt);
                    open = Some(records.len());
                    let (offset, count) = (gap.start as u64, seen.len().max(1) as u64);
                    records.push(Record::Damaged(Damaged { offset, records: count, seen }));
                }
            }
        }
        records.truncate(whole);
        records
    }
}

/// All bytes of a file up to the last that are no hole, or up to a hole longer than any record: a file that is long by
/// its holes alone costs nothing.
fn data_of(vfs: &dyn Vfs, path: &Path) -> Result<Vec<u8>> {
    const PIECE: usize = 4 << 20;
    let (length, mut bytes) = (vfs.file_len(path)?, Vec::new());
    loop {
        let at = bytes.len() as u64;
        let next = vfs.next_data(path, at)?.min(length);
        if next >= length || next - at > limits::FRAME_BYTES as u64 {
            return Ok(bytes);
        }
        let wanted = (next - at) as usize + PIECE;
        let piece = vfs.read_at(path, at, wanted)?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        reserve(&mut bytes, piece.len()).map_err(Error::io("read", path))?;
        bytes.extend_from_slice(&piece);
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::LogWriter;
    use super::super::sim::SimVfs;
    use super::super::write_new;
    use super::*;
    use crate::format::file::FileBuilder;
    use crate::options::Durability;

    const DATABASE: DatabaseId = [5; 16];

    fn ids_file(names: &[String]) -> Vec<u8> {
        let mut offsets = vec![0u32];
        let mut hashes: Vec<(u64, u32)> = Vec::new();
        for (n, name) in names.iter().enumerate() {
            offsets.push(offsets[n] + name.len() as u32);
            hashes.push((xxh3_64(name.as_bytes()), n as u32));
        }
        hashes.sort_unstable();
        let (hashes, order): (Vec<u64>, Vec<u32>) = hashes.into_iter().unzip();
        let sequences: Vec<u64> = (1..=names.len() as u64).collect();
        FileBuilder::new(Kind::Ids, DATABASE)
            .section(ids::OFFSETS, bytemuck::cast_slice(&offsets).to_vec())
            .section(ids::BYTES, names.concat().into_bytes())
            .section(ids::HASHES, bytemuck::cast_slice(&hashes).to_vec())
            .section(ids::ORDER, bytemuck::cast_slice(&order).to_vec())
            .section(ids::SEQUENCES, bytemuck::cast_slice(&sequences).to_vec())
            .finish()
    }

    #[test]
    fn of_damaged_ids_those_are_told_whose_hash_agrees() {
        let names: Vec<String> = (0..100).map(|n| format!("document-{n:03}")).collect();
        let mut bytes = ids_file(&names);
        let open = |bytes: &[u8]| {
            let vfs = SimVfs::new(1);
            write_new(&vfs, Path::new("ids"), bytes).unwrap();
            SalvagedIds::new(Salvaged::open(&vfs, "ids".into(), Kind::Ids, Some(&DATABASE)).unwrap())
        };
        assert!((0..100).all(|n| open(&bytes).id(n) == Some(&names[n as usize])));
        let place = bytes.windows(12).position(|window| window == b"document-050").unwrap();
        bytes[place..place + 24].fill(b'x');
        let ids = open(&bytes);
        assert!(ids.file().is_damaged());
        let told: Vec<u32> = (0..ids.len()).filter(|&n| ids.id(n).is_none()).collect();
        assert_eq!(told, [50, 51]);
        assert!((0..100).all(|n| ids.id(n).is_none_or(|id| id == names[n as usize])));
    }

    #[test]
    fn of_a_damaged_log_all_other_records_are_read() {
        let vfs = SimVfs::new(1);
        let path = Path::new("log");
        let header = LogHeader { number: 1, salt: 77, previous_end: 0, database: DATABASE };
        let mut writer = LogWriter::create(&vfs, path, header).unwrap();
        for n in 0..5u64 {
            let frames = [
                (FrameType::Delete, 2 * n + 1, vec![b'a' + n as u8; 40]),
                (FrameType::Delete, 2 * n + 2, vec![b'z'; 8]),
            ];
            writer.append(&frames, Durability::Full).unwrap();
        }
        drop(writer);
        let whole = vfs.read(path).unwrap();
        let read = |bytes: &[u8]| {
            let vfs = SimVfs::new(1);
            write_new(&vfs, path, bytes).unwrap();
            let log = SalvagedLog::open(&vfs, path).unwrap();
            let records = log.records(None, Some(0));
            let sound: Vec<u64> = records
                .iter()
                .filter_map(|r| if let Record::Sound(f) = r { Some(f.sequence) } else { None })
                .collect();
            let damaged = records
                .iter()
                .find_map(|r| if let Record::Damaged(damaged) = r { Some(damaged) } else { None });
            assert!(damaged.is_none_or(|damaged| (damaged.records, damaged.seen.len()) == (1, 1)));
            let seen = damaged.map(|damaged| damaged.seen[0].1.to_vec());
            (sound, records.len(), seen, log.turned)
        };
        assert_eq!(read(&whole), ((1..=10).collect(), 10, None, 0));
        let third = whole.windows(8).position(|window| window == b"cccccccc").unwrap();
        let mut flipped = whole.clone();
        flipped[third + 3] ^= 16;
        assert_eq!(read(&flipped), ((1..=10).collect(), 10, None, 1));
        flipped[third + 9] ^= 16;
        let (sound, records, seen, turned) = read(&flipped);
        assert_eq!((sound, records, turned), (vec![1, 2, 3, 4, 6, 7, 8, 9, 10], 10, 0));
        assert_eq!(seen.unwrap().iter().filter(|&&byte| byte == b'c').count(), 38);
        // What was never acknowledged is not taken for acknowledged.
        let (sound, ..) = read(&whole[..whole.len() - 8]);
        assert_eq!(sound, (1..=8).collect::<Vec<u64>>());
    }
}
