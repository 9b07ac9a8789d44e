use super::*;

fn pages(dtype: DType) -> Pages {
    let shape = PageShape {
        kv_heads: 3,
        head_dim: 6,
        block_size: 5,
        blocks: 4,
    };
    Pages::new(shape, 2, dtype).unwrap()
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

#[test]
fn pages_move_as_bytes() {
    for dtype in [DType::F32, DType::BF16] {
        let mut pages = pages(dtype);
        let bytes = pages.page_bytes(GroupId::MAIN);
        assert_eq!(bytes, 2 * 2 * 3 * 6 * 5 * dtype.kv().bits() as usize / 8);
        let data = noise(bytes, 7);
        pages.write(GroupId::MAIN, BlockId(2), &data).unwrap();
        let mut out = vec![9];
        pages.read(GroupId::MAIN, BlockId(2), &mut out).unwrap();
        assert_eq!(out[0], 9);
        assert_eq!(out[1..], data);
        out.clear();
        pages.read(GroupId::MAIN, BlockId(1), &mut out).unwrap();
        assert!(out.iter().all(|&b| b == 0));
    }
}

#[test]
fn a_copy_takes_the_first_slots_only() {
    let mut pages = pages(DType::F32);
    let shape = pages.shape();
    let bytes = pages.page_bytes(GroupId::MAIN);
    pages
        .write(GroupId::MAIN, BlockId(0), &noise(bytes, 1))
        .unwrap();
    pages
        .write(GroupId::MAIN, BlockId(3), &noise(bytes, 2))
        .unwrap();
    let Layers::F32(before) = &pages.layers else {
        panic!()
    };
    let before: Vec<Vec<u32>> = before
        .iter()
        .map(|layer| layer.iter().map(|x| x.to_bits()).collect())
        .collect();
    pages
        .copy(GroupId::MAIN, BlockId(0), BlockId(3), 2)
        .unwrap();
    let Layers::F32(after) = &pages.layers else {
        panic!()
    };
    for (before, after) in before.iter().zip(after) {
        for head in 0..3 {
            for dim in 0..6 {
                for slot in 0..5 {
                    let from = if slot < 2 { 0 } else { 3 };
                    let key = |block| shape.keys(block, head) + dim * 5 + slot;
                    let value = |block| shape.values(block, head) + slot * 6 + dim;
                    assert_eq!(after[key(3)].to_bits(), before[key(from)]);
                    assert_eq!(after[value(3)].to_bits(), before[value(from)]);
                }
            }
        }
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    let mut pages = pages(DType::BF16);
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
    assert!(matches!(
        Pages::new(huge, 2, DType::F32),
        Err(ModelError::Prepare(_))
    ));
}
