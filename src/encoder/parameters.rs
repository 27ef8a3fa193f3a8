//! What a model learns: named buffers of numbers with their gradients.
//!
//! Plain memory, so that every method, and the optimiser, goes over it once. A parameter that does not learn has no
//! gradient; of a table of words, of which a batch needs few, only the rows that were used have one.

/// Parameters, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Parameters(Vec<Parameter>);

/// One parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name; in an encoder as [`TrainableEncoder`](super::TrainableEncoder) says.
    pub name: String,
    /// Its shape; of a matrix outputs × inputs.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
    /// The derivative of the loss by each value.
    pub gradient: Gradient,
    /// Whether weight decay draws it to zero.
    pub decays: bool,
    /// Factor on the learning rate.
    pub rate: f32,
}

/// The derivative of the loss by a parameter's values.
#[derive(Debug, Clone)]
pub enum Gradient {
    /// The parameter does not learn.
    Frozen,
    /// One number for each value.
    Dense(Vec<f32>),
    /// Some rows of a table.
    Rows(RowGradient),
}

/// Derivatives by the rows of a table that were used since the last [`clear`](Self::clear); those by all others are zero.
#[derive(Debug, Clone)]
pub struct RowGradient {
    width: usize,
    /// Of each row of the table, one more than its place among `rows`; 0 if it was not used.
    places: Vec<u32>,
    rows: Vec<u32>,
    values: Vec<f32>,
}

impl RowGradient {
    /// That of a table of `rows` rows, none of them used.
    pub fn new(rows: usize, width: usize) -> Self {
        Self { width, places: vec![0; rows], rows: Vec::new(), values: Vec::new() }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The derivative by a row, zero at first; nothing if the table has no such row.
    pub fn used(&mut self, row: usize) -> Option<&mut [f32]> {
        let place = self.places.get_mut(row)?;
        if *place == 0 {
            self.rows.push(row as u32);
            self.values.resize(self.rows.len() * self.width, 0.0);
            *place = self.rows.len() as u32;
        }
        let start = (*place as usize - 1) * self.width;
        self.values.get_mut(start..start + self.width)
    }

    /// The derivative by a row, if it was used.
    pub fn row(&self, row: usize) -> Option<&[f32]> {
        let place = (*self.places.get(row)? as usize).checked_sub(1)?;
        self.values.get(place * self.width..(place + 1) * self.width)
    }

    /// The rows in use, in the order of their first use.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        for &row in &self.rows {
            if let Some(place) = self.places.get_mut(row as usize) {
                *place = 0;
            }
        }
        self.rows.clear();
        self.values.clear();
    }
}

impl Gradient {
    /// All numbers that may not be zero.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Frozen => &[],
            Self::Dense(values) => values,
            Self::Rows(rows) => &rows.values,
        }
    }

    /// The numbers of a gradient that is not of rows, to add to.
    pub fn dense(&mut self) -> Option<&mut [f32]> {
        match self {
            Self::Dense(values) => Some(values),
            _ => None,
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Frozen => &mut [],
            Self::Dense(values) => values,
            Self::Rows(rows) => &mut rows.values,
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Frozen => {}
            Self::Dense(values) => values.fill(0.0),
            Self::Rows(rows) => rows.clear(),
        }
    }
}

impl Parameter {
    /// A parameter that learns, with a gradient of zero; whether it decays is told by its name.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) -> Self {
        let name = name.into();
        let gradient = Gradient::Dense(vec![0.0; values.len()]);
        Self { decays: decays(&name), rate: 1.0, name, shape, values, gradient }
    }

    /// A table that learns, of which a batch uses some rows.
    pub fn table(name: impl Into<String>, shape: [usize; 2], values: Vec<f32>) -> Self {
        let gradient = Gradient::Rows(RowGradient::new(shape[0], shape[1]));
        Self { gradient, ..Self::frozen(name, shape.to_vec(), values) }
    }

    /// A parameter that does not learn.
    pub fn frozen(name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) -> Self {
        let name = name.into();
        Self { decays: decays(&name), rate: 1.0, name, shape, values, gradient: Gradient::Frozen }
    }

    /// Whether it learns.
    pub fn learns(&self) -> bool {
        !matches!(self.gradient, Gradient::Frozen)
    }
}

/// Whether weight decay applies to a parameter of this name: not to biases and normalisations.
fn decays(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !(lower.ends_with("bias")
        || lower.contains("layernorm")
        || lower.contains("layer_norm")
        || lower.contains("norm."))
}

impl Parameters {
    /// These, in this order.
    pub fn new(parameters: Vec<Parameter>) -> Self {
        Self(parameters)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.0.iter()
    }

    /// All of them, to change.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Parameter> {
        self.0.iter_mut()
    }

    /// That of a name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.iter().find(|parameter| parameter.name == name)
    }

    /// That of a name, to change.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        self.iter_mut().find(|parameter| parameter.name == name)
    }

    /// Those that learn.
    pub fn learning(&self) -> impl Iterator<Item = &Parameter> {
        self.iter().filter(|parameter| parameter.learns())
    }

    /// Sets all gradients to zero.
    pub fn clear(&mut self) {
        self.iter_mut().for_each(|parameter| parameter.gradient.clear());
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, factor: f32) {
        for parameter in self.iter_mut() {
            parameter.gradient.values_mut().iter_mut().for_each(|value| *value *= factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_weights_decay() {
        for (name, expected) in [
            ("encoder.layer.0.output.dense.weight", true),
            ("embeddings.word_embeddings.weight", true),
            ("encoder.layer.0.output.dense.bias", false),
            ("encoder.layer.0.output.LayerNorm.weight", false),
            ("layers.0.attn_norm.weight", false),
        ] {
            assert_eq!(Parameter::new(name, vec![1], vec![0.0]).decays, expected, "{name}");
        }
    }

    #[test]
    fn rows_are_found_again_until_they_are_cleared() {
        let mut table = RowGradient::new(5, 2);
        table.used(3).unwrap().copy_from_slice(&[1.0, 2.0]);
        table.used(0).unwrap()[1] = 4.0;
        table.used(3).unwrap()[0] += 1.0;
        assert!(table.used(5).is_none());
        assert_eq!(
            (table.row(3), table.row(0), table.row(1)),
            (Some(&[2.0, 2.0][..]), Some(&[0.0, 4.0][..]), None)
        );
        assert_eq!(table.rows(), [3, 0]);
        table.clear();
        assert_eq!((table.row(3), table.rows()), (None, &[][..]));
        assert_eq!(table.used(3).unwrap(), [0.0, 0.0]);
    }
}
