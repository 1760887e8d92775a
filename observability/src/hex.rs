//! Lower-case hexadecimal.

/// Writes `bytes` as hex into `buf`, which is twice as long.
pub(crate) fn write_hex(buf: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in buf.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// Digits of each byte, because ids are written up to three times per request.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};
