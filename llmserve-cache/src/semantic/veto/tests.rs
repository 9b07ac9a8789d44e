use proptest::prelude::*;

use super::{Veto, veto};

/// Every pair in both directions, all failures at once.
fn check(pairs: &[(&str, &str)], wanted: &[Option<Veto>]) {
    let mut wrong = Vec::new();
    for (a, b) in pairs {
        for (a, b) in [(a, b), (b, a)] {
            let found = veto(a, b);
            if !wanted.contains(&found) {
                wrong.push(format!("{found:?}: {a} | {b}"));
            }
        }
    }
    assert!(wrong.is_empty(), "wanted {wanted:?}\n{}", wrong.join("\n"));
}

#[test]
fn the_same_in_other_words_is_no_difference() {
    check(
        &[
            ("", ""),
            ("Name five rivers", "name 5 rivers!"),
            (
                "What's the 21st letter?",
                "What is the twenty-first letter?",
            ),
            ("I need 1,500 words.", "I need 1500 words"),
            ("I need 2 million dollars", "I need $2,000,000"),
            ("Is 20% enough?", "Is twenty percent enough?"),
            ("Meet at 3pm", "Meet at 3:00 PM"),
            ("Is it 5 km or more?", "Is it five kilometres or more?"),
            ("I can't swim", "I cannot swim"),
            ("It doesn't start", "It does not start."),
            ("It isn’t there", "It isn't there"),
            ("How do I bake bread?", "how can I bake breads"),
            ("Compare cats and dogs", "Compare dogs and cats"),
            (
                "The difference between Java and Kotlin?",
                "How do Kotlin and Java differ?",
            ),
            ("From Paris to Rome by train", "By train to Rome from Paris"),
            (
                "What is the difference between a Roth IRA and a traditional IRA?",
                "Traditional IRA vs Roth IRA: how do they differ?",
            ),
            (
                "How many cups are in a gallon?",
                "How many cups are in 1 gallon?",
            ),
            (
                "Trains from Oslo to Bergen?",
                "How do I get to Bergen from Oslo by trains?",
            ),
            ("Explain `fold` in Rust", "In Rust, explain `fold`."),
            ("What does my_call() do?", "What does `my_call` do?"),
            ("Who was JFK?", "Who was jfk?"),
            ("Rivers in Germany", "German rivers"),
            ("the USA in 1990", "America in 1990"),
            (
                "Translate \"Good night\" to Danish",
                "Please translate \"good night\" to Danish.",
            ),
            ("Remind me on 4 May", "Remind me on May 4"),
            ("Who led the U.S. then?", "Who led the US then?"),
            ("Is there sugar-free cola?", "Is there cola without sugar?"),
            ("A flat in London", "An apartment in London"),
            ("Chapter three", "The third chapter"),
            ("Please help. How do I sew?", "How do I sew?"),
            ("HOW DO I CLEAN SILVER", "how do I clean silver"),
            (
                "How To Clean Old Silver Spoons",
                "how to clean old silver spoons",
            ),
            ("World War II ships", "World War 2 ships"),
            ("a dozen eggs", "12 eggs"),
            (
                "Explain it to me as one would",
                "Explain it to me as you would",
            ),
            ("Turn down the heat", "Turn the heat down"),
        ],
        &[None],
    );
}

#[test]
fn numbers() {
    check(
        &[
            ("Name five rivers", "Name six rivers"),
            ("Take 250 mg", "Take 350 mg"),
            (
                "What is the 1st law of thermodynamics?",
                "What is the law of thermodynamics?",
            ),
            (
                "Where is the terminal 1 exit?",
                "Where is the exit of the terminal?",
            ),
            ("Is a cup enough?", "Are 2 cups enough?"),
            (
                "Does a cat need 1 litter box?",
                "Does a cat need 2 litter boxes?",
            ),
            ("The 2nd law", "The 3rd law"),
            ("The second law", "The third law"),
            ("Pages 10-20", "Pages 10-25"),
            ("About 1.5 cups", "About 2.5 cups"),
            ("Is 3.10 out?", "Is 3.1 out?"),
            ("Twenty-two", "Twenty-three"),
            ("one hundred and five", "one hundred and six"),
            ("2 thousand", "2 million"),
            ("5k", "5"),
            ("twice a day", "three times a day"),
            ("Is -5 less?", "Is 15 less?"),
            ("Rank 1 to 10", "Rank 1 to 100"),
            ("half of it and 3", "half of it and 4"),
            ("Louis XIV", "Louis XVI"),
            ("Is 1/2 more?", "Is 1/3 more?"),
        ],
        &[Some(Veto::Number), Some(Veto::Code), Some(Veto::Unit)],
    );
}

#[test]
fn negations_and_opposites() {
    check(
        &[
            ("Can I swim here?", "Can't I swim here?"),
            ("Foods to eat", "Foods to never eat"),
            ("A cake with eggs", "A cake without eggs"),
            ("Birds that fly", "Birds that do not fly"),
            ("I want to be called", "I dont want to be called"),
            ("Sugared tea", "Sugar-free tea"),
            ("Is smoking allowed?", "Is smoking forbidden?"),
            ("Is that comfortable?", "Is that uncomfortable?"),
            ("A reversible change", "An irreversible change"),
            ("Show regular verbs", "Show irregular verbs"),
            ("Mount the drive", "Unmount the drive"),
            ("Switch it on", "Switch it off"),
            ("Enabling logs", "Disabling logs"),
            ("The cheapest phone", "The most expensive phone"),
            ("Its maximum", "Its minimum"),
            ("Taxes before retirement", "Taxes after retirement"),
            ("Numbers above zero", "Numbers below zero"),
            ("Who won?", "Who lost?"),
            ("Who sings tonight?", "Who sang last night?"),
            ("Buying a house", "Selling a house"),
            ("Upload it", "Download it"),
            ("Which are mandatory?", "Which are optional?"),
        ],
        &[
            Some(Veto::Negation),
            Some(Veto::Opposite),
            Some(Veto::Order),
        ],
    );
}

#[test]
fn names_languages_units_dates() {
    check(
        &[
            ("Who is Marie Curie?", "Who is Ada Lovelace?"),
            ("Flights to Lima", "Flights to Quito"),
            ("Is the Corolla reliable?", "Is the Civic reliable?"),
            ("Is it better on an i5?", "Is it better on an i7?"),
            ("is it cold in boston", "is it cold in chicago"),
            ("Do cats purr?", "Do lions purr?"),
            ("A gift for my sister", "A gift for my brother"),
            ("A red dress", "A blue dress"),
            ("Playing the violin", "Playing the cello"),
            ("I work at Siemens", "I work at Bosch"),
        ],
        &[Some(Veto::Name)],
    );
    check(
        &[
            ("Say it in Polish", "Say it in Czech"),
            ("Sort in Go", "Sort in Rust"),
            ("Sort in c++", "Sort in c#"),
            ("Write a loop", "Write a loop in Lua"),
            ("a regex in perl", "a regex in ruby"),
            (
                "Where is the station and what is it?",
                "Wo ist der Bahnhof und was ist das?",
            ),
            ("What is this?", "これは何ですか"),
            ("Thai food", "Korean food"),
        ],
        &[Some(Veto::Language)],
    );
    check(
        &[
            ("5 miles away", "5 km away"),
            ("It weighs 3 kg", "It weighs 3 lbs"),
            ("A disk of 2TB", "A disk of 2GB"),
            ("It costs $40", "It costs €40"),
            ("It costs 40 pounds", "It costs 40 yen"),
            ("For 2 weeks", "For 2 months"),
            ("30 °C", "30 °F"),
            ("A link of 10 Mbps", "A link of 10 Gbps"),
        ],
        &[Some(Veto::Unit)],
    );
    check(
        &[
            ("On Monday", "On Friday"),
            ("In March 2020", "In April 2020"),
            ("Events of 1914", "Events of 1939"),
            ("At 5 am", "At 5 pm"),
            ("May 3", "May 4"),
            ("Open tomorrow?", "Open today?"),
            ("In the morning", "In the evening"),
            ("At 10:15", "At 10:45"),
        ],
        &[Some(Veto::Date)],
    );
}

#[test]
fn code_order_question_extra() {
    check(
        &[
            ("What is `a`?", "What is `b`?"),
            ("Use --force", "Use --quiet"),
            ("tar -x", "tar -c"),
            ("Where is /var/log?", "Where is /var/lib?"),
            ("Does a >= b hold?", "Does a > b hold?"),
            ("Is x != y?", "Is x == y?"),
            ("Call getName", "Call getValue"),
            ("Open src/main.rs", "Open src/lib.rs"),
            ("Define \"irony\"", "Define \"satire\""),
            ("Visit example.com", "Visit example.org"),
            ("The type Vec<u8>", "The type Vec<u16>"),
            ("a@b.org wrote", "c@b.org wrote"),
            ("What is snake_case?", "What is kebab_case?"),
        ],
        &[Some(Veto::Code)],
    );
    check(
        &[
            ("From Rome to Paris", "From Paris to Rome"),
            ("Convert feet to meters", "Convert meters to feet"),
            ("Is lead heavier than gold?", "Is gold heavier than lead?"),
            ("Does the cat fear the dog?", "Does the dog fear the cat?"),
            ("Turn a list into a tuple", "Turn a tuple into a list"),
            ("Can Anna hear Otto?", "Can Otto hear Anna?"),
            ("Take 3 from 9", "Take 9 from 3"),
            (
                "Copy it from my tablet to the cloud",
                "Copy it from the cloud to my tablet",
            ),
            (
                "What was the goal difference when Spain beat France?",
                "What was the goal difference when France beat Spain?",
            ),
            (
                "What is the difference in time from Oslo to Bergen and back?",
                "What is the difference in time from Bergen to Oslo and back?",
            ),
            (
                "Translate from Thai to Dutch",
                "Translate from Dutch to Thai",
            ),
        ],
        &[Some(Veto::Order)],
    );
    check(
        &[
            ("Who built it?", "When was it built?"),
            ("Where do eels breed?", "When do eels breed?"),
            ("How many bees are there?", "How old are the bees there?"),
            ("How much is it?", "How long is it?"),
            ("Why does ice float?", "How does ice float?"),
            (
                "When did the wall fall?",
                "What were the reasons the wall fell?",
            ),
            ("How do I write a letter?", "Write a letter."),
        ],
        &[Some(Veto::Question)],
    );
    check(
        &[
            ("What is tea?", "What is tea? Answer in one word."),
            ("Sum it up.", "Sum it up. Use bullet points."),
            ("A recipe for lasagna", "A vegan recipe for lasagna"),
            ("How do I clean it?", "How do I clean it quietly?"),
        ],
        &[Some(Veto::Extra)],
    );
}

#[test]
fn one_word_in_anothers_place() {
    check(
        &[
            ("How do I knit a scarf?", "How do I crochet a scarf?"),
            ("How do I knit a scarf?", "How can I mend the scarf?"),
            ("Who sang the anthem?", "Who wrote the anthem?"),
            ("What's the tempo of it?", "What is the key of it?"),
            ("Is celecoxib strong?", "Is citalopram strong?"),
            ("Wo kann ich hier parken?", "Wo darf ich hier parken?"),
            ("Reasons for a tax", "Reasons against a tax"),
            ("What can I eat there?", "What should I eat there?"),
            ("Do I need salt and oil?", "Do I need salt or oil?"),
            ("How do I use eels?", "What is a way to say eels?"),
            ("How large should a tip be?", "How large should a plate be?"),
            // Spelt alike, in another frame.
            (
                "What does hypernatremia do to me?",
                "Is there a way to see hyponatremia in me?",
            ),
        ],
        &[Some(Veto::Wording)],
    );
    check(
        &[
            ("How do I get to the lake?", "How can I get to a lake?"),
            ("Which lakes are deep?", "What lakes are deep?"),
            ("Explain tides.", "What are tides?"),
            ("Is the tap toxic?", "Is the faucet poisonous?"),
            ("Was it built by monks?", "Was it made by monks?"),
            ("A café in a fjord", "A cafe in a fjord"),
            ("How do you treat gout?", "What is the treatment of gout?"),
            ("Who painted it?", "Which artist painted it?"),
            ("Where is my user name?", "Where is my username?"),
            ("Is the Wi-Fi free?", "Is the wifi free?"),
            ("Why won't it sell?", "Why will it not sell?"),
            (
                "How many days does tar take to dry?",
                "How long does it take tar to dry?",
            ),
            (
                "How often should I feed a newt?",
                "How many times do I feed newts?",
            ),
        ],
        &[None],
    );
}

#[test]
fn how_much_is_claimed() {
    check(
        &[
            ("Do all birds sing?", "Do some birds sing?"),
            ("Can members book it?", "Can only members book it?"),
            ("Log out of every device", "Log out of one device"),
            ("Which phone is better?", "Which phone is the best?"),
            ("Who is the tallest of us?", "Who is taller than us?"),
            ("Who is the least fit of us?", "Who is less fit than us?"),
            (
                "The minimum to pay in a year?",
                "What do I pay in a year at most?",
            ),
        ],
        &[
            Some(Veto::Number),
            Some(Veto::Wording),
            Some(Veto::Negation),
        ],
    );
    check(
        &[
            ("Must I sign it?", "Can I sign it?"),
            ("Should I sign it?", "Must I sign it?"),
            ("What is rust?", "What is rust used for?"),
        ],
        &[Some(Veto::Question)],
    );
    check(
        &[
            ("Did it rain there?", "Will it rain there?"),
            ("Who was the mayor?", "Who is the mayor?"),
            ("Have you been there?", "Will you go there?"),
        ],
        &[Some(Veto::Date)],
    );
    check(
        &[("Do you ship to the island?", "Do you ship from the island?")],
        &[Some(Veto::Opposite)],
    );
}

#[test]
fn who_does_it_to_whom() {
    check(
        &[
            (
                "Replace the lard with margarine in a pie",
                "Replace the margarine with lard in a pie",
            ),
            ("Can I sue my uncle?", "Can my uncle sue me?"),
            ("Can my uncle see my will?", "Can I see my uncle's will?"),
            ("Do you remember me?", "Do I remember you?"),
            ("Can whales understand us?", "Can we understand whales?"),
            ("Who taught Euler?", "Who did Euler teach?"),
            ("Who sued Euler?", "Who did Euler sue?"),
            ("Is every gull a bird?", "Is every bird a gull?"),
        ],
        &[Some(Veto::Order)],
    );
    check(
        &[
            ("Compare squash with fennel", "Compare fennel with squash"),
            ("pizza cheap oslo", "oslo pizza cheap"),
            (
                "How do I fix a squeaking hinge?",
                "How can a squeaking hinge be fixed?",
            ),
        ],
        &[None],
    );
}

#[test]
fn a_word_more_on_one_side() {
    check(
        &[
            (
                "How do I clean sneakers?",
                "What is a way to clean suede sneakers?",
            ),
            ("What is a pointer?", "Explain null pointers"),
            ("How do I give it to him?", "How do I give it up to him?"),
        ],
        &[Some(Veto::Extra)],
    );
    check(
        &[
            (
                "How do I split a file?",
                "What is the command to split a file?",
            ),
            ("Why do stars twinkle?", "What makes stars twinkle?"),
        ],
        &[None],
    );
}

#[test]
fn templates_hide_nothing() {
    let template = "You are a helpful guide in Spain. Never use more than 3 sentences, do not mention \
                    prices in dollars, and always answer in German. Question: ";
    let filled = |with: &str| format!("{template}{with}");
    for (a, b, wanted) in [
        (
            "Say it in German.",
            "Say it in Greek.",
            Some(Veto::Language),
        ),
        ("Is that dear?", "Is that not dear?", Some(Veto::Negation)),
        ("Name 3 towns.", "Name 4 towns.", Some(Veto::Number)),
        ("Where can we swim?", "Where can one swim?", None),
    ] {
        assert_eq!(veto(&filled(a), &filled(b)), wanted, "{a} | {b}");
    }
}

/// Texts of the things that rules look at, joined in any way.
fn texts() -> impl Strategy<Value = String> {
    let parts = [
        "not", "n't", "don't", "five", "5", "5.", "1,000", "twenty", "-", "II", "km", "°C", "$",
        "%", "Paris", "paris", "in", "C++", "c#", "`", "``", "\"", "'", "’", "(", ")", "f(", "a_b",
        "--x", "==", "/", ".", "?", "\n", " ", " ", " ", " ", "from", "to", "How", "many", "May",
        "3:30", "pm", "für", "ist", "日本", "ß", "İ", "U.S.", "e.g.", "New", "York", "hundred",
        "second", "½",
    ];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..40)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn symmetric_and_at_peace_with_itself(a in texts(), b in texts()) {
        prop_assert_eq!(veto(&a, &b), veto(&b, &a));
        prop_assert_eq!(veto(&a, &a), None);
    }

    #[test]
    fn any_text_is_read(a in ".{0,80}", b in ".{0,80}") {
        prop_assert_eq!(veto(&a, &b), veto(&b, &a));
        prop_assert_eq!(veto(&b, &b), None);
    }
}
