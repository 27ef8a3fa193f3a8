//! Single values of a Parquet file, as JSON and as numbers of a vector.
//!
//! Dates and timestamps become ISO 8601 strings, whose order is that of time; decimals become floating point; NaN is
//! an absent value, as data frames have it.

use embdb::types::calendar::Date;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::super::npy::f16_to_f32;

/// What the physical values of a column stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Plain,
    Unsigned,
    /// Text, or text by the look of it: most writers of bytes mean UTF-8.
    Text,
    Json,
    Date,
    /// So many units make a second.
    Timestamp(i64),
    /// So many digits are behind the point.
    Decimal(i32),
    Half,
    Uuid,
}

impl Scalar {
    /// What a column's annotations say, or why it is not read.
    pub(super) fn of(column: &ColumnDescriptor) -> Result<Self, String> {
        let (physical, converted) = (column.physical_type(), column.converted_type());
        let decimal = || match physical {
            Physical::INT32 | Physical::INT64 => Ok(Self::Decimal(column.type_scale())),
            _ => Err("decimals of that width are not read".to_string()),
        };
        match column.logical_type_ref() {
            Some(LogicalType::Float16) => return Ok(Self::Half),
            Some(LogicalType::Uuid) => return Ok(Self::Uuid),
            Some(LogicalType::Date) => return Ok(Self::Date),
            Some(LogicalType::Json) => return Ok(Self::Json),
            Some(LogicalType::Decimal(_)) => return decimal(),
            Some(LogicalType::Integer(kind)) if !kind.is_signed => return Ok(Self::Unsigned),
            Some(LogicalType::Timestamp(kind)) => {
                return Ok(Self::Timestamp(match kind.unit {
                    TimeUnit::MILLIS => 1_000,
                    TimeUnit::MICROS => 1_000_000,
                    TimeUnit::NANOS => 1_000_000_000,
                }));
            }
            _ => (),
        }
        Ok(match converted {
            ConvertedType::DATE => Self::Date,
            ConvertedType::JSON => Self::Json,
            ConvertedType::DECIMAL => return decimal(),
            ConvertedType::TIMESTAMP_MILLIS => Self::Timestamp(1_000),
            ConvertedType::TIMESTAMP_MICROS => Self::Timestamp(1_000_000),
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64 => Self::Unsigned,
            _ if physical == Physical::BYTE_ARRAY => Self::Text,
            _ if physical == Physical::FIXED_LEN_BYTE_ARRAY => {
                return Err("bytes of a fixed length are not read".into());
            }
            _ => Self::Plain,
        })
    }

    /// Whether values of this kind and physical type can be those of a vector.
    pub(super) fn is_number(self, physical: Physical) -> bool {
        let numeric =
            matches!(physical, Physical::INT32 | Physical::INT64 | Physical::FLOAT | Physical::DOUBLE);
        self == Self::Half || numeric && matches!(self, Self::Plain | Self::Unsigned | Self::Decimal(_))
    }
}

/// A physical value.
pub(super) trait Cell {
    /// As JSON; `None` for an absent value.
    fn json(&self, scalar: Scalar) -> Result<Option<Value>, String>;

    /// As a number of a vector, in a column for which [`Scalar::is_number`] holds.
    fn float(&self, scalar: Scalar) -> Option<f32>;

    /// Bytes that it takes in a document, about.
    fn size(&self) -> usize {
        8
    }
}

fn number(value: f64) -> Result<Option<Value>, String> {
    match serde_json::Number::from_f64(value) {
        Some(number) => Ok(Some(Value::Number(number))),
        None if value.is_nan() => Ok(None),
        None => Err(format!("it is {value}, which JSON cannot say")),
    }
}

fn timestamp(value: i64, per_second: i64) -> String {
    let (seconds, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut text =
        format!("{}T{:02}:{:02}:{:02}", Date::of_days(day), second / 3_600, second / 60 % 60, second % 60);
    if rest != 0 {
        let nanos = rest * (1_000_000_000 / per_second);
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    text
}

fn integer(value: i64, unsigned: u64, scalar: Scalar) -> Result<Option<Value>, String> {
    match scalar {
        Scalar::Unsigned => Ok(Some(unsigned.into())),
        Scalar::Date => Ok(Some(Date::of_days(value).to_string().into())),
        Scalar::Timestamp(per_second) => Ok(Some(timestamp(value, per_second).into())),
        Scalar::Decimal(scale) => number(value as f64 / 10f64.powi(scale)),
        _ => Ok(Some(value.into())),
    }
}

fn integer_as_float(value: i64, unsigned: u64, scalar: Scalar) -> Option<f32> {
    Some(match scalar {
        Scalar::Unsigned => unsigned as f32,
        Scalar::Decimal(scale) => (value as f64 / 10f64.powi(scale)) as f32,
        _ => value as f32,
    })
}

impl Cell for bool {
    fn json(&self, _: Scalar) -> Result<Option<Value>, String> {
        Ok(Some(Value::Bool(*self)))
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        None
    }
}

impl Cell for i32 {
    fn json(&self, scalar: Scalar) -> Result<Option<Value>, String> {
        integer((*self).into(), self.cast_unsigned().into(), scalar)
    }

    fn float(&self, scalar: Scalar) -> Option<f32> {
        integer_as_float((*self).into(), self.cast_unsigned().into(), scalar)
    }
}

impl Cell for i64 {
    fn json(&self, scalar: Scalar) -> Result<Option<Value>, String> {
        integer(*self, self.cast_unsigned(), scalar)
    }

    fn float(&self, scalar: Scalar) -> Option<f32> {
        integer_as_float(*self, self.cast_unsigned(), scalar)
    }
}

/// The timestamps of old writers.
impl Cell for Int96 {
    fn json(&self, _: Scalar) -> Result<Option<Value>, String> {
        Ok(Some(timestamp(self.to_micros(), 1_000_000).into()))
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        None
    }
}

impl Cell for f32 {
    /// The double with the fewest digits that is this number, so that 0.1 stays 0.1.
    fn json(&self, _: Scalar) -> Result<Option<Value>, String> {
        number(self.to_string().parse().unwrap_or_else(|_| f64::from(*self)))
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        Some(*self)
    }
}

impl Cell for f64 {
    fn json(&self, _: Scalar) -> Result<Option<Value>, String> {
        number(*self)
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        Some(*self as f32)
    }
}

impl Cell for ByteArray {
    fn json(&self, scalar: Scalar) -> Result<Option<Value>, String> {
        let text = std::str::from_utf8(self.data()).map_err(|_| "invalid UTF-8".to_string())?;
        match scalar {
            Scalar::Json => serde_json::from_str(text).map(Some).map_err(|e| format!("invalid JSON: {e}")),
            _ => Ok(Some(text.into())),
        }
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        None
    }

    fn size(&self) -> usize {
        self.len()
    }
}

impl Cell for FixedLenByteArray {
    fn json(&self, scalar: Scalar) -> Result<Option<Value>, String> {
        match scalar {
            Scalar::Uuid if self.len() == 16 => {
                let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let (bytes, parts) = (self.data(), [0..4, 4..6, 6..8, 8..10, 10..16]);
                Ok(Some(parts.map(|part| hex(&bytes[part])).join("-").into()))
            }
            Scalar::Half => match self.float(scalar) {
                Some(value) => value.json(Scalar::Plain),
                None => Err("a number of 16 bits has 2 bytes".into()),
            },
            _ => Err("bytes of a fixed length are not read".into()),
        }
    }

    fn float(&self, _: Scalar) -> Option<f32> {
        <[u8; 2]>::try_from(self.data()).ok().map(|bytes| f16_to_f32(u16::from_le_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dates_and_times_read_as_iso_8601() {
        assert_eq!((-1i32).json(Scalar::Date), Ok(Some(json!("1969-12-31"))));
        assert_eq!(19_782i32.json(Scalar::Date), Ok(Some(json!("2024-02-29"))));
        assert_eq!(timestamp(1_700_000_000_500, 1_000), "2023-11-14T22:13:20.5");
        assert_eq!(timestamp(-1, 1_000_000), "1969-12-31T23:59:59.999999");
        assert_eq!(timestamp(60, 1_000_000_000), "1970-01-01T00:00:00.00000006");
        // Whatever a file says, there is an answer.
        for value in [i64::MIN, i64::MAX] {
            assert!(timestamp(value, 1_000).len() > 19);
        }
    }

    #[test]
    fn numbers_keep_what_they_mean() {
        assert_eq!(0.1f32.json(Scalar::Plain), Ok(Some(json!(0.1))));
        assert_eq!(f64::NAN.json(Scalar::Plain), Ok(None));
        assert!(f32::INFINITY.json(Scalar::Plain).unwrap_err().contains("inf"));
        assert_eq!((-1i32).json(Scalar::Unsigned), Ok(Some(json!(4_294_967_295u32))));
        assert_eq!((-1i64).json(Scalar::Unsigned), Ok(Some(json!(u64::MAX))));
        assert_eq!(1_999i32.json(Scalar::Decimal(2)), Ok(Some(json!(19.99))));
        assert_eq!(1_999i64.float(Scalar::Decimal(2)), Some(19.99));
    }
}
