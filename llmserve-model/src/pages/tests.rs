use super::*;

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

fn pages(dtype: DType, block_size: usize) -> Pages {
    let shape = PageShape {
        kv_heads: 3,
        head_dim: 6,
        block_size,
        blocks: 4,
        packed: packed(dtype),
    };
    Pages::new(shape, 2).unwrap()
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

#[test]
fn pages_move_as_bytes() {
    for (dtype, block_size) in DTYPES.into_iter().zip([5, 4]) {
        let mut pages = pages(dtype, block_size);
        let bytes = pages.page_bytes(GroupId::MAIN);
        assert_eq!(bytes, 2 * 2 * 3 * 6 * block_size * 4 / packed(dtype));
        // The last page too, which memory goes on behind.
        for block in [BlockId(2), BlockId(3)] {
            let data = noise(bytes, 7);
            pages.write(GroupId::MAIN, block, &data).unwrap();
            let mut out = vec![9];
            pages.read(GroupId::MAIN, block, &mut out).unwrap();
            assert_eq!(out[0], 9);
            assert_eq!(out[1..], data);
        }
        let mut out = Vec::new();
        pages.read(GroupId::MAIN, BlockId(1), &mut out).unwrap();
        assert!(out.iter().all(|&b| b == 0));
    }
}

#[test]
fn an_odd_slot_of_bf16_has_words_of_its_own() {
    let pages = pages(DType::BF16, 5);
    let slots = 5 + 6;
    assert_eq!(pages.page_bytes(GroupId::MAIN), 2 * 3 * 6 * slots * 2);
}

/// What a page holds for one slot, as bits: key and value of every layer and head.
fn slot(pages: &Pages, block: usize, slot: usize) -> Vec<u32> {
    let shape = pages.shape();
    let mut all = Vec::new();
    for layer in &pages.layers {
        for head in 0..shape.kv_heads {
            let keys = shape.keys(block, head) + slot;
            all.extend((0..shape.key_words()).map(|word| layer[keys + word * shape.block_size]));
            let values = shape.values(block, head) + slot / shape.packed * shape.head_dim;
            let words = &layer[values..values + shape.head_dim];
            all.extend(words.iter().map(|word| match (shape.packed, slot % 2) {
                (1, _) => *word,
                (_, 0) => word & 0xffff,
                _ => word >> 16,
            }));
        }
    }
    all
}

#[test]
fn a_copy_takes_the_first_slots_only() {
    let main = GroupId::MAIN;
    for dtype in DTYPES {
        for block_size in [1, 4, 5] {
            for slots in 0..=block_size {
                let mut pages = pages(dtype, block_size);
                let bytes = pages.page_bytes(main);
                for block in 0..4 {
                    let noise = noise(bytes, block as u8 + 1);
                    pages.write(main, BlockId(block), &noise).unwrap();
                }
                let before: Vec<Vec<_>> = (0..4)
                    .map(|block| (0..block_size).map(|s| slot(&pages, block, s)).collect())
                    .collect();
                pages.copy(main, BlockId(0), BlockId(3), slots).unwrap();
                for (block, before_block) in before.iter().enumerate() {
                    for s in 0..block_size {
                        let copied = block == 3 && s < slots;
                        let expected = if copied {
                            &before[0][s]
                        } else {
                            &before_block[s]
                        };
                        assert_eq!(&slot(&pages, block, s), expected, "{dtype} {slots} {s}");
                    }
                }
            }
        }
    }
}

#[test]
fn layouts_have_names_of_their_own() {
    assert_ne!(layout_name(DType::F32), layout_name(DType::BF16));
}

#[test]
fn what_does_not_exist_is_refused() {
    let mut pages = pages(DType::BF16, 5);
    let (main, good, bad) = (GroupId::MAIN, BlockId(0), BlockId(4));
    assert!(pages.copy(main, good, bad, 1).is_err());
    assert!(pages.copy(main, bad, good, 1).is_err());
    assert!(pages.copy(main, good, BlockId(1), 6).is_err());
    assert!(pages.copy(GroupId(1), good, BlockId(1), 1).is_err());
    assert!(pages.read(main, bad, &mut Vec::new()).is_err());
    assert!(pages.write(main, bad, &[]).is_err());
    assert!(pages.write(main, good, &[0; 3]).is_err());
    assert!(Pages::none().read(main, good, &mut Vec::new()).is_err());
    let huge = PageShape {
        blocks: usize::MAX / 64,
        ..pages.shape()
    };
    assert!(matches!(Pages::new(huge, 2), Err(ModelError::Prepare(_))));
}
