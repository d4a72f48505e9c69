//! How a record lies on disk: `version: u8 | crc32c: u32 LE | payload`.
//!
//! The checksum covers the version and the payload. A record that is shorter, longer or other than what was written
//! is an error naming what is wrong, never a wrong value.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// Why bytes are not a record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// Fewer bytes than a header.
    #[error("record of {0} bytes is shorter than its header")]
    Short(usize),
    /// A version this binary does not know.
    #[error("record version {found} is not {expected}")]
    Version {
        /// The version found.
        found: u8,
        /// The version asked for.
        expected: u8,
    },
    /// The checksum does not fit the bytes.
    #[error("record checksum {found:08x} does not fit its bytes ({computed:08x})")]
    Checksum {
        /// The checksum stored.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The payload does not decode to the type.
    #[error("record does not decode: {0}")]
    Payload(String),
}

/// Puts header and payload together.
#[must_use]
pub fn frame(version: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&[version, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
    seal(&mut out);
    out
}

/// Writes the checksum into a buffer whose first byte is the version and whose payload starts at [`HEADER_BYTES`].
pub fn seal(buffer: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&buffer[..1]), &buffer[HEADER_BYTES..]);
    buffer[1..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The payload of a record of this version.
///
/// # Errors
/// When the bytes are short, of another version, or fail their checksum.
pub fn unframe(version: u8, bytes: &[u8]) -> Result<&[u8], CodecError> {
    let (Some(&found), Some(crc), Some(payload)) =
        (bytes.first(), bytes.get(1..HEADER_BYTES), bytes.get(HEADER_BYTES..))
    else {
        return Err(CodecError::Short(bytes.len()));
    };
    let computed = crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), payload);
    let stored = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
    if stored != computed {
        return Err(CodecError::Checksum { found: stored, computed });
    }
    if found != version {
        return Err(CodecError::Version { found, expected: version });
    }
    Ok(payload)
}

/// A value as a record, its payload in bincode.
///
/// # Errors
/// When the type cannot be written in bincode (a map of unknown length, say): a mistake of the program.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![version, 0, 0, 0, 0];
    bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())
        .map_err(|error| CodecError::Payload(error.to_string()))?;
    seal(&mut out);
    Ok(out)
}

/// The value of a record made by [`encode`] with the same version.
///
/// # Errors
/// When the bytes are not such a record, or bytes are left over.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    decode_payload(unframe(version, bytes)?)
}

/// The value of a bincode payload, which must be used up.
///
/// # Errors
/// When it does not decode or bytes are left over.
pub fn decode_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(payload, bincode::config::standard())
        .map_err(|error| CodecError::Payload(error.to_string()))?;
    if used != payload.len() {
        return Err(CodecError::Payload(format!("{} bytes left over", payload.len() - used)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_any_byte_changed_is_refused() {
        let bytes = encode(3, &("invoice.paid", 7_u64)).expect("encodes");
        assert_eq!(decode::<(String, u64)>(3, &bytes), Ok(("invoice.paid".to_owned(), 7)));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(decode::<(String, u64)>(3, &bad).is_err(), "byte {at} changed unseen");
        }
        for len in 0..bytes.len() {
            assert!(decode::<(String, u64)>(3, &bytes[..len]).is_err(), "cut at {len} unseen");
        }
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let bytes = encode(1, &(1_u64, 2_u64)).expect("encodes");
        assert!(matches!(decode::<u64>(1, &bytes), Err(CodecError::Payload(_))));
    }

    #[test]
    fn another_version_is_named() {
        let bytes = encode(1, &1_u64).expect("encodes");
        assert_eq!(decode::<u64>(2, &bytes), Err(CodecError::Version { found: 1, expected: 2 }));
    }
}
