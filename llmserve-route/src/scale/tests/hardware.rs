//! The cheapest of all mixes.

use proptest::prelude::*;

use super::*;

#[test]
fn hardware_that_will_not_do_is_told() {
    let catalogue = Hardware::new([
        Kind::new("slow", 1.0, 1_000.0, 80.0).p95_ms(900.0),
        Kind::new("small", 1.0, 1_000.0, 24.0).p95_ms(100.0),
        Kind::new("unknown", 1.0, 1_000.0, 80.0),
        Kind::new("good", 4.0, 2_000.0, 80.0).p95_ms(300.0).most(2),
    ])
    .unwrap();
    let wanted = Wanted::new(3_000.0, 40.0).p95(Duration::from_millis(500));
    let choice = catalogue.cheapest(&wanted).unwrap();
    let out: Vec<_> = choice
        .ruled_out
        .iter()
        .map(|out| (out.kind.as_str(), out.reason.as_str()))
        .collect();
    assert_eq!(
        out,
        [
            ("slow", "p95 of 900 ms, 500 ms are wanted"),
            ("small", "24 GiB of 40 GiB"),
            ("unknown", "p95 is not known, 500 ms are wanted"),
        ]
    );
    assert_eq!(
        (choice.mix[0].count, choice.cost_per_hour, choice.proven),
        (2, 8.0, true)
    );
    let error = catalogue
        .cheapest(&Wanted {
            tokens_per_second: 4_001.0,
            ..wanted.clone()
        })
        .unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.value.as_str()),
        ("tokens_per_second", "4000")
    );
    assert!(catalogue.cheapest(&Wanted::new(1.0, 99.0)).is_err());
    assert!(catalogue.cheapest(&Wanted::new(f64::NAN, 1.0)).is_err());
    assert_eq!(catalogue.cheapest(&Wanted::new(0.0, 1.0)).unwrap().mix, []);
    let bad = |kind: Kind| Hardware::new([kind]).is_err();
    assert!(bad(Kind::new("a", 0.0, 1.0, 1.0)) && bad(Kind::new("a", 1.0, f64::NAN, 1.0)));
    assert!(bad(Kind::new("a", 1.0, 1.0, 1.0).spot(Spot::new(1.0, 0.0))));
    assert!(Hardware::new([Kind::new("a", 1.0, 1.0, 1.0), Kind::new("a", 2.0, 1.0, 1.0)]).is_err());
}

#[test]
fn spot_instances_carry_their_share_and_no_more() {
    let catalogue =
        Hardware::new([Kind::new("a", 2.0, 1_000.0, 80.0).spot(Spot::new(0.75, 0.2).most(6))])
            .unwrap();
    let mix = |share: f64| {
        let choice = catalogue
            .cheapest(&Wanted::new(4_000.0, 1.0).spot_share(share))
            .unwrap();
        let of = |spot| {
            choice
                .mix
                .iter()
                .filter(|of| of.spot == spot)
                .map(|of| of.count)
                .sum::<usize>()
        };
        (of(false), of(true))
    };
    assert_eq!(mix(0.0), (4, 0));
    // Two thousand rest on them, at eight hundred each.
    assert_eq!(mix(0.5), (2, 3));
    assert_eq!(mix(1.0), (0, 5));
}

proptest! {
    #[test]
    fn no_mix_is_cheaper(
        kinds in prop::collection::vec((1u32..20, 1u32..12, 0usize..4, prop::option::of((0u32..8, 0u32..4))), 1..4),
        wanted in 1u32..30,
        share in 0u32..=4,
    ) {
        let kinds = kinds.iter().enumerate().map(|(at, (cost, tokens, most, spot))| {
            let mut kind = Kind::new(at.to_string(), f64::from(*cost), f64::from(*tokens), 1.0).most(*most);
            kind.spot = spot.map(|(discount, gone)| {
                Spot::new(f64::from(discount) / 8.0, f64::from(gone) / 4.0).most(2)
            });
            kind
        });
        let catalogue = Hardware::new(kinds).unwrap();
        let share = f64::from(share) / 4.0;
        let wanted = Wanted::new(f64::from(wanted), 1.0).spot_share(share);
        let choice = catalogue.cheapest(&wanted);
        // Every mix there is.
        let mut items = Vec::new();
        for kind in &catalogue.kinds {
            items.push((kind.cost_per_hour, kind.tokens_per_second, kind.most.unwrap(), false));
            if let Some(spot) = kind.spot {
                let (cost, tokens) = (1.0 - spot.discount, 1.0 - spot.interruption);
                items.push((kind.cost_per_hour * cost, kind.tokens_per_second * tokens, 2, true));
            }
        }
        let mut cheapest = f64::INFINITY;
        let mut mixes = vec![(0.0, 0.0, 0.0)];
        for (cost, tokens, most, spot) in items {
            mixes = mixes.iter().flat_map(|(spent, all, lasting)| {
                (0..=most).map(move |count| {
                    let made = count as f64 * tokens;
                    (spent + count as f64 * cost, all + made, lasting + if spot { 0.0 } else { made })
                })
            }).collect();
        }
        for (spent, all, lasting) in mixes {
            if all >= wanted.tokens_per_second && lasting >= wanted.tokens_per_second * (1.0 - share) {
                cheapest = cheapest.min(spent);
            }
        }
        match choice {
            Ok(choice) => {
                prop_assert!((choice.cost_per_hour - cheapest).abs() < 1e-6, "{choice:?} {cheapest}");
                prop_assert!(choice.tokens_per_second >= wanted.tokens_per_second - 1e-6);
                prop_assert!(choice.proven);
            }
            Err(_) => prop_assert!(cheapest.is_infinite()),
        }
    }
}
