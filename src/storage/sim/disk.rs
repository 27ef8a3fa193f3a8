//! The content of a simulated disk, and the operations that change it.
//!
//! As on a real file system a name leads to a numbered node, and a node is a file's bytes or a directory's names.
//! Nodes are never taken away while a disk is in use (a removed file may still be open); `drop_unreachable` does so
//! for a crash image. Cloning shares all content until it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::io::Errno;

/// The number of a node.
pub(super) type Ino = u64;

/// The node of the directory `/`.
pub(super) const ROOT: Ino = 0;

/// Files longer than this are refused, so that a wrong offset does not fill the memory.
const FILE_LEN_MAX: u64 = 1 << 32;

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Arc<Vec<u8>>),
    Dir(Arc<BTreeMap<String, Ino>>),
}

impl Node {
    pub(super) fn empty_file() -> Self {
        Self::File(Arc::default())
    }

    pub(super) fn empty_dir() -> Self {
        Self::Dir(Arc::default())
    }
}

/// A change of the disk, or an order to make changes durable.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A new node, empty as given, and its name.
    Create {
        dir: Ino,
        name: String,
        ino: Ino,
        node: Node,
    },
    Write {
        ino: Ino,
        offset: usize,
        data: Arc<[u8]>,
    },
    Sync {
        ino: Ino,
    },
    /// A sync that reported an error: what it should have written is now nobody's.
    SyncFailed {
        ino: Ino,
    },
    Rename {
        from_dir: Ino,
        from: String,
        to_dir: Ino,
        to: String,
        ino: Ino,
    },
    Remove {
        dir: Ino,
        name: String,
    },
    SyncDir {
        dir: Ino,
    },
    /// A sync of a directory that reported an error: the system holds its names for written.
    SyncDirFailed {
        dir: Ino,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    nodes: BTreeMap<Ino, Node>,
}

impl Disk {
    /// A disk with an empty directory `/`.
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::empty_dir())]) }
    }

    /// A number that no node has.
    pub(super) fn next_ino(&self) -> Ino {
        self.nodes.last_key_value().map_or(ROOT, |(ino, _)| ino + 1)
    }

    /// The node with this name.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for name in names(path)? {
            ino = *self.dir(ino)?.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(ino)
    }

    /// The directory that holds this name, and the name in it.
    pub(super) fn resolve_parent(&self, path: &Path) -> io::Result<(Ino, String)> {
        let mut parents = names(path)?;
        let name = parents.pop().ok_or(Errno::EXIST)?.to_string();
        let mut ino = ROOT;
        for parent in parents {
            ino = *self.dir(ino)?.get(parent).ok_or(Errno::NOENT)?;
        }
        self.dir(ino)?;
        Ok((ino, name))
    }

    pub(super) fn file(&self, ino: Ino) -> io::Result<&Arc<Vec<u8>>> {
        match self.nodes.get(&ino) {
            Some(Node::File(bytes)) => Ok(bytes),
            Some(Node::Dir(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn dir(&self, ino: Ino) -> io::Result<&BTreeMap<String, Ino>> {
        match self.nodes.get(&ino) {
            Some(Node::Dir(entries)) => Ok(entries),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// Does what the operation does to files and names.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { ino, node, .. } => self.put_node(*ino, node.clone()),
            Op::Write { ino, offset, data } => self.write(*ino, *offset, data),
            _ => {}
        }
        self.apply_names(op);
    }

    pub(super) fn put_node(&mut self, ino: Ino, node: Node) {
        self.nodes.insert(ino, node);
    }

    /// Does what the operation does to names.
    pub(super) fn apply_names(&mut self, op: &Op) {
        match op {
            Op::Create { dir, name, ino, .. } => self.link(*dir, name, *ino),
            Op::Rename { from_dir, from, to_dir, to, ino } => {
                self.unlink(*from_dir, from);
                self.link(*to_dir, to, *ino);
            }
            Op::Remove { dir, name } => self.unlink(*dir, name),
            Op::Write { .. }
            | Op::Sync { .. }
            | Op::SyncFailed { .. }
            | Op::SyncDir { .. }
            | Op::SyncDirFailed { .. } => {}
        }
    }

    /// Writes into a file, which grows as needed, with zeros up to `offset`.
    pub(super) fn write(&mut self, ino: Ino, offset: usize, data: &[u8]) {
        if let Some(Node::File(bytes)) = self.nodes.get_mut(&ino) {
            overwrite(Arc::make_mut(bytes), offset, data);
        }
    }

    fn link(&mut self, dir: Ino, name: &str, ino: Ino) {
        if let Some(Node::Dir(entries)) = self.nodes.get_mut(&dir) {
            Arc::make_mut(entries).insert(name.to_string(), ino);
        }
    }

    fn unlink(&mut self, dir: Ino, name: &str) {
        if let Some(Node::Dir(entries)) = self.nodes.get_mut(&dir) {
            Arc::make_mut(entries).remove(name);
        }
    }

    /// Bytes in all files that have a name.
    pub(super) fn used(&self) -> u64 {
        let files = self.reachable().into_iter().filter_map(|ino| self.file(ino).ok());
        files.map(|bytes| bytes.len() as u64).sum()
    }

    /// Takes away the nodes that no name leads to.
    pub(super) fn drop_unreachable(&mut self) {
        let reachable = self.reachable();
        self.nodes.retain(|ino, _| reachable.contains(ino));
    }

    fn reachable(&self) -> BTreeSet<Ino> {
        let mut seen = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(ino) = open.pop() {
            if let Ok(entries) = self.dir(ino) {
                open.extend(entries.values().filter(|child| seen.insert(**child)));
            }
        }
        seen
    }
}

/// Writes into bytes, which grow as needed.
pub(super) fn overwrite(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset.saturating_add(data.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(to) = bytes.get_mut(offset..end) {
        to.copy_from_slice(data);
    }
}

/// The place of a write, if a file may be as long as that.
pub(super) fn place(offset: u64, len: usize) -> io::Result<usize> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= FILE_LEN_MAX => usize::try_from(offset).map_err(|_| Errno::FBIG.into()),
        _ => Err(Errno::FBIG.into()),
    }
}

/// The names along a path. A relative path starts at `/` too.
fn names(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(Errno::INVAL)?),
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL.into()),
        }
    }
    Ok(names)
}
