//! What quantities are measured in.

/// Units by spaces, their names by `=`.
pub(super) const UNITS: &str = "\
    km=kilometer=kilometre mile meter=metre cm=centimeter=centimetre mm=millimeter=millimetre \
    foot=feet=ft inch=inches yard lightyear \
    kg=kilogram=kilo gram=g mg=milligram mcg=microgram lb=lbs=pound=gbp=sterling=£ ounce=oz ton=tonne stone \
    liter=litre=l ml=milliliter=millilitre cl=centiliter=centilitre gallon=gal pint quart cup \
    tablespoon=tbsp teaspoon=tsp \
    celsius=°c=centigrade fahrenheit=°f kelvin \
    bit byte kb=kilobyte mb=megabyte gb=gigabyte tb=terabyte pb=petabyte kib mib gib \
    kbps mbps gbps \
    millisecond=ms microsecond nanosecond=ns second=sec=s minute=min hour=hr=h day week month year \
    decade century=centuries \
    dollar=usd=$=buck=us_dollar euro=eur=€ yen=jpy=¥ rupee=inr=₹ yuan=cny=rmb franc=chf rouble=ruble=rub won=krw \
    peso=mxn real=brl cent krona=sek krone=nok zloty=pln bitcoin=btc ether=eth \
    percent=%=percentage canadian_dollar=cad australian_dollar=aud radian \
    watt=w kw=kilowatt mw=megawatt kwh joule=j calorie=kcal volt=v amp=ampere ohm hz=hertz khz mhz \
    ghz psi pascal mph kph=kmh knot acre hectare rpm decibel=db pixel=px fps";

/// Names of units that are a unit only right behind a number: otherwise they are words or letters.
pub(super) const BEHIND_NUMBER: &[&str] = &[
    "g", "l", "s", "h", "w", "j", "v", "min", "ms", "ns", "sec", "stone", "cup", "real", "won",
    "bit", "cent", "ton", "yard", "knot", "db", "gal", "pixel", "px", "day", "ether", "eth", "amp",
    "second", "byte",
];
