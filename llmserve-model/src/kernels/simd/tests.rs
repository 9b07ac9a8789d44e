//! Every level's operations against their definitions, edge values included.

use proptest::prelude::*;

use super::super::{Kernel, levels};
use super::*;

/// What the word operations make of some words and numbers.
#[derive(Debug, Default, PartialEq)]
struct Made {
    dot_i8: [u32; LANES],
    to_f32: [u32; LANES],
    nibbles: [[u32; LANES]; 2],
    halves: [[u32; LANES]; 2],
    pairs: [u32; LANES / 2],
    low_bytes: [u32; LANES / 4],
}

struct Make<'a> {
    a: &'a [u32; LANES],
    b: &'a [u32; LANES],
    made: &'a mut Made,
}

impl Kernel for Make<'_> {
    const BYTES: bool = true;
    const BF16: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, b) = (s.words(self.a), s.words(self.b));
        let bits = |w| s.lanes(s.float(w)).map(f32::to_bits);
        self.made.dot_i8 = bits(s.dot_i8(a, b, s.splat_word(7)));
        self.made.to_f32 = s.lanes(s.to_f32(a)).map(f32::to_bits);
        self.made.nibbles = [bits(s.low_nibbles(a)), bits(s.high_nibbles(a))];
        self.made.halves = [
            s.lanes(s.low(a)).map(f32::to_bits),
            s.lanes(s.high(a)).map(f32::to_bits),
        ];
        self.made.pairs = s.pairs(s.float(a));
        self.made.low_bytes = s.low_bytes(s.float(a));
    }
}

fn expected(a: &[u32; LANES], b: &[u32; LANES]) -> Made {
    let dot = |a: u32, b: u32| -> i32 {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        (0..4)
            .map(|i| i32::from(a[i]) * i32::from(b[i].cast_signed()))
            .sum()
    };
    Made {
        dot_i8: std::array::from_fn(|i| (7 + dot(a[i], b[i])).cast_unsigned()),
        to_f32: a.map(|x| (x.cast_signed() as f32).to_bits()),
        nibbles: [
            a.map(|x| x & 0x0f0f_0f0f),
            a.map(|x| (x >> 4) & 0x0f0f_0f0f),
        ],
        halves: [a.map(|x| x << 16), a.map(|x| x & 0xffff_0000)],
        pairs: std::array::from_fn(|i| {
            let narrow = |x: u32| u32::from(half::bf16::from_f32(f32::from_bits(x)).to_bits());
            narrow(a[2 * i]) | narrow(a[2 * i + 1]) << 16
        }),
        low_bytes: std::array::from_fn(|i| {
            u32::from_le_bytes(std::array::from_fn(|byte| a[4 * i + byte] as u8))
        }),
    }
}

/// Subnormal numbers are flushed to zero by some levels; they are left out where it shows.
fn normal(x: u32) -> u32 {
    match f32::from_bits(x).is_subnormal() {
        true => x & 0x8000_0000,
        false => x,
    }
}

fn check(a: [u32; LANES], b: [u32; LANES]) -> Result<(), TestCaseError> {
    let a = a.map(normal);
    let expected = expected(&a, &b);
    for level in levels() {
        let mut made = Made::default();
        level.run(Make {
            a: &a,
            b: &b,
            made: &mut made,
        });
        prop_assert_eq!(&made, &expected, "{:?}", level);
    }
    Ok(())
}

proptest! {
    #[test]
    fn words_are_what_they_are_defined_to_be(
        a in proptest::array::uniform16(any::<u32>()),
        b in proptest::array::uniform16(any::<u32>()),
    ) {
        check(a, b)?;
    }

    #[test]
    fn dot_products_of_bf16_agree(
        a in proptest::array::uniform16(-1e3f32..1e3),
        b in proptest::array::uniform16(-1e3f32..1e3),
        c in -1e3f32..1e3,
    ) {
        struct Dot<'a>([u32; LANES], [u32; LANES], f32, &'a mut [f32; LANES]);
        impl Kernel for Dot<'_> {
            const BF16: bool = true;

            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let (a, b) = (s.words(&self.0), s.words(&self.1));
                s.store(s.dot_bf16(a, b, s.splat(self.2)), self.3);
            }
        }
        let words = |x: [f32; LANES]| -> [u32; LANES] {
            std::array::from_fn(|i| pair(x[i], x[(i + 1) % LANES]))
        };
        let wide = |x: u32| [f64::from(f32::from_bits(x << 16)), f64::from(f32::from_bits(x & 0xffff_0000))];
        let (a, b) = (words(a), words(b));
        for level in levels() {
            let mut out = [0.0; LANES];
            level.run(Dot(a, b, c, &mut out));
            for i in 0..LANES {
                let (x, y) = (wide(a[i]), wide(b[i]));
                let exact = x[0] * y[0] + x[1] * y[1] + f64::from(c);
                let size = (x[0] * y[0]).abs() + (x[1] * y[1]).abs() + f64::from(c).abs();
                prop_assert!((f64::from(out[i]) - exact).abs() <= 3e-7 * size, "{:?}", level);
            }
        }
    }
}

#[test]
fn edges_of_words() {
    let a = std::array::from_fn(|i| match i % 8 {
        0 => 0xffff_ffff,
        1 => 0x7f80_0000,
        2 => 0xff80_0001,
        3 => 0x3f80_8000,
        4 => 0x3f81_8000,
        5 => 0x7f7f_ffff,
        6 => 0x8000_0000,
        _ => 0x7fff_ffff,
    });
    for b in [0x8080_8080, 0x7f7f_7f7f, 0, 0xffff_ffff] {
        check(a, [b; LANES]).unwrap();
    }
}
