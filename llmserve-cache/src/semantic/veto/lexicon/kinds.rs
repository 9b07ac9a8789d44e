//! Things of one kind: a question about one is not a question about another.

/// How a kind's members count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::semantic::veto) enum Weight {
    /// Named at all, the other text must name it too: what an answer is in, on or about.
    Alone,
    /// Only another of the kind in its stead tells the texts apart.
    Against,
}

/// What a difference in a kind is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::semantic::veto) enum Sort {
    Name,
    Language,
    Date,
}

use Sort::{Date, Language, Name};
use Weight::{Against, Alone};

/// Members by spaces, words for the same member by `=`, two words in one by `_`. A member with a
/// capital counts only where the text has it so, or after "in", "with" or "using".
pub(super) const KINDS: &[(Sort, Weight, &str)] = &[
    // Countries with their people and language: "German rivers" are rivers in Germany.
    (
        Language,
        Alone,
        "france=french germany=german spain=spanish italy=italian portugal=portuguese \
         poland=Polish russia=russian china=chinese=mandarin japan=japanese korea=korean \
         india=indian hindi bengali tamil urdu arabic hebrew persian=farsi=iran=iranian \
         turkish=Turkey greece=greek netherlands=dutch=holland sweden=swedish norway=norwegian \
         denmark=danish finland=finnish iceland=icelandic england=english ireland=irish \
         scotland=scottish wales=welsh britain=british=uk=united_kingdom=great_britain \
         usa=america=american=united_states=US canada=canadian mexico=mexican \
         brazil=brazilian argentina=argentinian chile=chilean peru=peruvian colombia=colombian \
         cuba=cuban egypt=egyptian morocco=moroccan nigeria=nigerian kenya=kenyan \
         ethiopia=ethiopian south_africa israel=israeli iraq=iraqi syria=syrian lebanon=lebanese \
         saudi_arabia=saudi pakistan=pakistani bangladesh thailand=thai vietnam=vietnamese \
         indonesia=indonesian malaysia=malaysian philippines=filipino=tagalog singapore australia=australian \
         new_zealand austria=austrian switzerland=swiss belgium=belgian czech=czechia hungary=hungarian \
         romania=romanian bulgaria=bulgarian serbia=serbian croatia=croatian ukraine=ukrainian \
         belarus estonia=estonian latvia=latvian lithuania=lithuanian albania=albanian latin \
         swahili esperanto cantonese catalan basque nepal=nepali mongolia=mongolian venezuela \
         ecuador bolivia uruguay paraguay jamaica tunisia algeria libya ghana senegal tanzania \
         uganda zimbabwe afghanistan qatar kuwait dubai north_korea south_korea taiwan=taiwanese \
         sanskrit georgia=georgian armenia=armenian kazakhstan europe=european africa=african \
         asia=asian antarctica",
    ),
    // Programming languages.
    (
        Language,
        Alone,
        "python java javascript=js=ecmascript typescript=ts c++=cpp c#=csharp C Go=golang Rust ruby \
         php perl kotlin scala haskell Swift objective-c Julia matlab lua Dart elixir erlang clojure \
         fortran cobol pascal Lisp prolog Scheme Basic Assembly bash=Shell powershell sql ocaml \
         f# groovy zig nim R vba html css latex solidity verilog vhdl",
    ),
    // Systems, databases, tools that the answer is for.
    (
        Name,
        Alone,
        "Windows linux macos=osx=mac android ios ubuntu debian fedora centos arch_linux alpine \
         chromeos freebsd",
    ),
    (
        Name,
        Alone,
        "mysql postgres=postgresql sqlite mongodb redis Oracle mariadb cassandra elasticsearch dynamodb",
    ),
    (
        Name,
        Alone,
        "React angular vue svelte django Flask Rails laravel Spring Express fastapi nextjs jquery",
    ),
    (Name, Alone, "chrome firefox safari Edge Opera Brave"),
    (
        Name,
        Alone,
        "excel Word powerpoint Outlook gmail photoshop Illustrator figma Notion Slack Zoom Teams \
         dropbox onedrive google_drive icloud netflix spotify youtube instagram facebook twitter \
         tiktok whatsapp Telegram linkedin reddit Amazon ebay paypal github gitlab bitbucket docker \
         kubernetes=k8s terraform ansible jenkins nginx apache aws azure gcp",
    ),
    (
        Name,
        Alone,
        "iphone ipad macbook ipod imac Galaxy Pixel airpods kindle playstation xbox nintendo",
    ),
    (
        Name,
        Alone,
        "json csv xml yaml toml markdown pdf docx xlsx parquet protobuf html jpeg=jpg png gif svg \
         webp mp3 mp4 wav",
    ),
    (
        Name,
        Against,
        "tcp udp http https ftp ssh smtp imap pop3 grpc websocket mqtt",
    ),
    (
        Name,
        Against,
        "string int float double bool char array list tuple set dict byte date",
    ),
    (
        Name,
        Against,
        "class struct enum interface trait function variable constant module macro",
    ),
    (
        Name,
        Against,
        "merge rebase commit push pull fetch checkout stash cherry-pick clone revert",
    ),
    // Places within countries.
    (
        Name,
        Against,
        "paris london berlin madrid rome tokyo osaka kyoto beijing shanghai new_york los_angeles \
         chicago boston san_francisco seattle houston miami dallas philadelphia washington toronto \
         vancouver montreal sydney melbourne moscow vienna prague budapest warsaw dublin lisbon \
         barcelona munich hamburg frankfurt cologne amsterdam brussels zurich geneva stockholm oslo \
         copenhagen helsinki athens istanbul cairo dubai mumbai delhi bangkok seoul hong_kong \
         singapore milan venice florence naples new_orleans las_vegas san_diego denver atlanta \
         detroit austin portland",
    ),
    (
        Name,
        Against,
        "mercury venus earth mars jupiter saturn uranus neptune pluto moon sun",
    ),
    (
        Name,
        Against,
        "alabama alaska arizona california colorado florida hawaii illinois nevada ohio oregon \
         texas utah virginia wisconsin michigan minnesota",
    ),
    // Directions.
    (
        Name,
        Against,
        "north south east west northern southern eastern western",
    ),
    // People.
    (
        Name,
        Against,
        "mother=mom=mum father=dad son daughter brother sister uncle aunt grandmother=grandma \
         grandfather=grandpa cousin nephew niece husband wife boyfriend girlfriend boss=manager=supervisor colleague=coworker \
         friend neighbor=neighbour landlord teacher",
    ),
    (
        Name,
        Against,
        "child adult teenager=teen=adolescent baby toddler senior beginner expert company student",
    ),
    (
        Name,
        Against,
        "doctor lawyer nurse teacher engineer plumber electrician dentist accountant pilot chef \
         carpenter architect journalist",
    ),
    // Living things.
    (
        Name,
        Against,
        "dog=puppy cat=kitten horse cow pig sheep goat chicken duck rabbit hamster parrot fish lion \
         tiger bear wolf fox elephant giraffe zebra monkey gorilla panda kangaroo koala whale \
         dolphin shark octopus snake lizard turtle frog crocodile spider ant bee wasp mosquito \
         butterfly eagle owl penguin mouse rat squirrel bat deer",
    ),
    (
        Name,
        Against,
        "apple banana orange lemon lime grape strawberry blueberry raspberry cherry peach pear plum \
         pineapple mango watermelon melon kiwi avocado tomato potato carrot onion garlic pumpkin \
         cucumber spinach broccoli cabbage lettuce pepper corn pea bean mushroom zucchini eggplant \
         rhubarb fig coconut",
    ),
    (
        Name,
        Against,
        "beef pork chicken lamb turkey salmon tuna shrimp tofu egg bacon ham",
    ),
    (
        Name,
        Against,
        "rice pasta bread quinoa oat wheat noodle potato couscous",
    ),
    (
        Name,
        Against,
        "water milk coffee tea juice beer wine vodka whisky soda lemonade ethanol alcohol",
    ),
    (
        Name,
        Against,
        "breakfast lunch dinner supper brunch dessert snack",
    ),
    (
        Name,
        Against,
        "cake bread cookie=biscuit pie pizza soup salad sandwich burger pancake",
    ),
    (
        Name,
        Against,
        "heart liver lung kidney brain stomach skin bone muscle blood spleen pancreas bladder",
    ),
    (
        Name,
        Against,
        "head neck shoulder arm elbow wrist hand finger leg knee ankle foot toe back hip eye ear \
         nose throat tooth hair",
    ),
    (
        Name,
        Against,
        "flu cold measles mumps diabetes cancer asthma malaria pneumonia migraine covid hepatitis \
         tuberculosis arthritis cholera depression anxiety allergy",
    ),
    (
        Name,
        Against,
        "ibuprofen aspirin paracetamol=acetaminophen=tylenol penicillin insulin antibiotic caffeine \
         nicotine morphine amoxicillin",
    ),
    (
        Name,
        Against,
        "vitamin protein iron calcium zinc magnesium fiber fat sugar sodium",
    ),
    // Matter.
    (
        Name,
        Against,
        "hydrogen helium carbon nitrogen oxygen sodium chlorine iron copper silver gold mercury \
         lead uranium aluminium=aluminum zinc tin nickel sulfur phosphorus calcium potassium",
    ),
    (
        Name,
        Against,
        "wood steel plastic glass paper cotton wool leather concrete granite stone",
    ),
    (
        Name,
        Against,
        "red blue green yellow black white purple pink brown gray=grey orange violet",
    ),
    (Name, Against, "solid liquid gas plasma"),
    (
        Name,
        Against,
        "triangle square circle rectangle cube sphere cylinder cone pyramid",
    ),
    (
        Name,
        Against,
        "proton neutron electron photon neutrino quark",
    ),
    // Pursuits.
    (
        Name,
        Against,
        "football=soccer basketball baseball tennis golf hockey cricket rugby volleyball badminton \
         boxing swimming chess checkers poker",
    ),
    (
        Name,
        Against,
        "guitar piano violin drum flute trumpet saxophone cello harp clarinet ukulele",
    ),
    (
        Name,
        Against,
        "math=maths=mathematics physics chemistry biology history geography economics philosophy \
         psychology sociology geology astronomy",
    ),
    (
        Name,
        Against,
        "poem essay story letter email song speech report novel haiku limerick tweet blog",
    ),
    (
        Name,
        Against,
        "car train bus plane bike=bicycle boat ship truck motorcycle taxi subway",
    ),
    (
        Name,
        Against,
        "bank loan mortgage insurance pension tax salary",
    ),
    (
        Name,
        Against,
        "house apartment hotel hostel tent office garage garden kitchen bathroom bedroom",
    ),
    (
        Name,
        Against,
        "carpet roof wall floor ceiling window door tap sink",
    ),
    (Name, Against, "passport visa ticket license=licence"),
    (
        Name,
        Against,
        "laptop tablet phone printer monitor keyboard camera headphone router",
    ),
    (
        Name,
        Against,
        "christianity islam buddhism hinduism judaism",
    ),
    (
        Name,
        Against,
        "addition subtraction multiplication division",
    ),
    (
        Name,
        Against,
        "summarize translate rewrite proofread explain",
    ),
    // What is asked of a thing.
    (
        Name,
        Against,
        "capital population currency language area flag religion climate cuisine president",
    ),
    (
        Name,
        Against,
        "symptom cause treatment cure prevention diagnosis",
    ),
    (
        Name,
        Against,
        "price size weight height length width depth age color address",
    ),
    (Name, Against, "mean median mode variance"),
    (
        Name,
        Against,
        "perimeter area volume circumference radius diameter",
    ),
    (
        Name,
        Against,
        "speed acceleration velocity mass force energy power momentum",
    ),
    // Time.
    (
        Date,
        Alone,
        "monday tuesday wednesday thursday friday saturday sunday",
    ),
    (
        Date,
        Alone,
        "january february March april May june july august september october november december",
    ),
    (Date, Against, "spring summer autumn winter"),
    (Date, Against, "yesterday today tomorrow"),
    (Date, Against, "morning noon afternoon evening midnight"),
    (
        Date,
        Alone,
        "christmas easter halloween thanksgiving ramadan hanukkah",
    ),
    (Date, Against, "past present future"),
    (Date, Against, "daily weekly monthly yearly=annually hourly"),
    (Date, Against, "ad=ce bc=bce"),
];
