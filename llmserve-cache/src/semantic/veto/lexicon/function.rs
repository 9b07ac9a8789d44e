//! Words that carry no subject of their own.

/// Grammar, and the ways to ask.
pub(super) const FUNCTION: &str = "\
    a an the this that these those i me my mine myself you your yours we us our ours he him his she \
    her it its they them their theirs one's someone somebody something anyone anybody anything \
    is am are was were be been being do does did done doing have has had having will would shall \
    should can could may might must ought need needs want wants like let lets's get gets got getting \
    go goes going use used using uses to of in on at by for from with about into onto as if than then \
    and or but so because while when where who whom whose which what why how there here any some \
    such very really just also too else ever please kindly hi hello hey thanks thank tell give know \
    explain describe show list say wonder wondering looking look way ways step steps process proper \
    right good best okay ok possible able properly exactly mean meaning called kind type sort \
    thing things whether much many lot bit per each within during against between among towards \
    through via up down out off over under again still yet already now maybe perhaps however \
    though although not no never none neither nor without cannot would'd recommended recommend \
    suggest suggestion idea ideas tip tips advice question answer help understand come take takes \
    number amount count times said says happen happens happened occur occurs occurred both time";

/// Words that come and go with the noun.
pub(super) const ARTICLES: &str = "a an the";

/// Words of politeness, which may stand alone in a sentence.
pub(super) const POLITE: &str = "please thanks thank hi hello hey dear kindly advance";

/// Negations. `unable` is here and not among opposites, as it stands for "not able".
pub(super) const NEGATION: &str = "\
    not never no none nothing nobody nowhere neither nor without cannot unable avoid lack lacking \
    refuse dont doesnt didnt isnt arent wasnt werent wont wouldnt cant couldnt shouldnt hasnt havent \
    hadnt mustnt neednt aint except excluding hardly barely";

/// Words that say little beside the words around them: the verb that a thing is asked about with
/// anyway, and the noun that a question word stands for.
pub(super) const LIGHT: &str = "\
    make made keep kept stay put see saw offer available expect allow allowed bring begin start help \
    try wish hope find found check obtain receive acquire exist contain calculate compute define \
    summarize name call cause require required necessary need contain \
    set create perform carry handle deal work play read travel visit buy give turn learn become \
    command code case reason area city country year people person body information detail method \
    procedure approach solution guide instruction tutorial option task project purpose situation \
    recipe formula duration trick manner difference problem issue \
    currently nowadays usually normally typically generally actually basically simply really \
    personally exactly easily correctly successfully overall total certain several anymore together \
    along around away every each common commonly various different particular specific own \
    view degree top run write easiest simplest quickest better safe fine bad wrong advisable";
