//! SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), in a form that
//! both a BPF program and the daemon can run: state in, one 8-byte word, state out.
//!
//! An agent chooses most of what is hashed, so the hash is keyed: without [`Key`] it cannot look for two actions with
//! one digest.

/// A 128-bit key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

/// A 128-bit result.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Digest {
    /// First half.
    pub low: u64,
    /// Second half.
    pub high: u64,
}

/// The hash between two words.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    /// Starts a hash.
    #[inline(always)]
    pub const fn new(key: Key) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13);
        self.v1 ^= self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16);
        self.v3 ^= self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21);
        self.v3 ^= self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17);
        self.v1 ^= self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    /// Takes in the next eight bytes, as a little-endian number.
    #[inline(always)]
    pub const fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    /// Ends the hash. `tail` holds the last `total % 8` bytes, little-endian, the rest zero; `total` is the number of
    /// bytes hashed, or of those that the other words do not tell.
    #[inline(always)]
    pub const fn finish(mut self, tail: u64, total: u64) -> Digest {
        self.word(tail | (total << 56));
        self.v2 ^= 0xee;
        self.round();
        self.round();
        self.round();
        self.round();
        let low = self.v0 ^ self.v1 ^ self.v2 ^ self.v3;
        self.v1 ^= 0xdd;
        self.round();
        self.round();
        self.round();
        self.round();
        Digest { low, high: self.v0 ^ self.v1 ^ self.v2 ^ self.v3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: Key, bytes: &[u8]) -> Digest {
        let mut sip = Sip::new(key);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            sip.word(u64::from_le_bytes(word.try_into().unwrap()));
        }
        let mut tail = [0; 8];
        tail[..words.remainder().len()].copy_from_slice(words.remainder());
        sip.finish(u64::from_le_bytes(tail), bytes.len() as u64)
    }

    /// The first vectors of `vectors_sip128` in the authors' reference implementation.
    #[test]
    fn agrees_with_the_reference() {
        let key = Key { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
        let input: Vec<u8> = (0..64).collect();
        let expect = |length: usize, bytes: [u8; 16]| {
            let digest = hash(key, &input[..length]);
            let mut out = digest.low.to_le_bytes().to_vec();
            out.extend(digest.high.to_le_bytes());
            assert_eq!(out, bytes, "{length} bytes");
        };
        expect(0, [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93]);
        expect(1, [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45]);
    }
}
