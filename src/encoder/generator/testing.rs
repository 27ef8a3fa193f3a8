//! Writes GGUF files for tests.

/// A setting to write.
#[derive(Debug, Clone)]
pub enum Value {
    U32(u32),
    Text(&'static str),
    Numbers(Vec<i32>),
    Texts(Vec<String>),
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
    bytes: Vec<u8>,
}

/// A file to write.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub version: u32,
    settings: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
    end: u64,
}

impl Default for Gguf {
    fn default() -> Self {
        Self { version: 3, settings: Vec::new(), tensors: Vec::new(), end: 0 }
    }
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: Value) {
        self.settings.push((key.into(), value));
    }

    /// A tensor behind those that are there.
    pub fn tensor(&mut self, name: &str, sizes: &[u64], kind: u32, bytes: Vec<u8>) {
        let offset = self.end;
        self.end = (offset + bytes.len() as u64).next_multiple_of(32);
        self.tensors.push(Tensor { name: name.into(), sizes: sizes.to_vec(), kind, offset, bytes });
    }

    /// A tensor that shall lie at `offset`, without bytes of its own.
    pub fn tensor_at(&mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) {
        self.tensors.push(Tensor {
            name: name.into(),
            sizes: sizes.to_vec(),
            kind,
            offset,
            bytes: Vec::new(),
        });
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.settings.len() as u64).to_le_bytes());
        for (key, value) in &self.settings {
            text(&mut out, key);
            match value {
                Value::U32(number) => out.extend([4, *number].map(u32::to_le_bytes).concat()),
                Value::Text(value) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, value);
                }
                Value::Numbers(items) => {
                    out.extend([9u32, 5].map(u32::to_le_bytes).concat());
                    out.extend((items.len() as u64).to_le_bytes());
                    items.iter().for_each(|item| out.extend(item.to_le_bytes()));
                }
                Value::Texts(items) => {
                    out.extend([9u32, 8].map(u32::to_le_bytes).concat());
                    out.extend((items.len() as u64).to_le_bytes());
                    items.iter().for_each(|item| text(&mut out, item));
                }
            }
        }
        for Tensor { name, sizes, kind, offset, .. } in &self.tensors {
            text(&mut out, name);
            out.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        let start = out.len();
        for Tensor { offset, bytes, .. } in self.tensors.iter().filter(|tensor| !tensor.bytes.is_empty()) {
            out.resize(start + *offset as usize, 0);
            out.extend(bytes);
        }
        out
    }
}
