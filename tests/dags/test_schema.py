"""The table of a feed: how it is made, and what a task says when it does not fit the feed any more."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import yaml
from test_feed import DAY, SMALL

import nas
from feed import load
from feed.column import kind_of
from feed.model import Feed
from feed.rows import rows, trial, trials
from feed.schema import creation, held, make_table, united


@pytest.fixture
def feed(tmp_path):
    def feed(columns, **load):
        path = tmp_path / "feeds" / "small.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            yaml.safe_dump(
                SMALL | {"load": {"connection": "warehouse", "table": "t", "columns": columns, **load}}, sort_keys=False
            )
        )
        return Feed.of(path)

    return feed


class Table:
    """A cursor of a database that has the table, and says so as MySQL does."""

    def __init__(self, columns, keys, *, other=None):
        self.columns = [
            (name, kind, "utf8mb4_0900_bin" if "char" in kind or "text" in kind else None, null, "", None, "", "", "")
            for name, (kind, null) in columns.items()
        ]
        self.keys = [("t", 0, name, 1, column, "A", 0, None) for name, listed in keys.items() for column in listed]
        self.other, self.statements, self.answer = other, [], []

    def execute(self, statement, _=None):
        self.statements.append(statement)
        answers = {"SELECT feed": self.other or [], "SHOW TABLES": [("t",)] if self.columns else []}
        answers |= {"SHOW FULL": self.columns, "SHOW INDEX": self.keys}
        self.answer = next((answer for begin, answer in answers.items() if statement.startswith(begin)), [])

    def fetchone(self):
        return self.answer[0] if self.answer else None

    def fetchall(self):
        return self.answer


OWN = {"feed_day": ("date", "NO"), "feed_row": ("bigint", "NO")}


def test_each_table_has_a_primary_key_for_a_server_can_require_one(feed):
    columns = {"cur": "char(3)", "rate": "decimal(12,6)"}
    common = "`cur` char(3) NOT NULL, `rate` decimal(12,6) NULL, feed_day DATE NOT NULL, feed_row BIGINT NOT NULL"
    assert f"({common}, PRIMARY KEY (`feed_day`, `cur`))" in creation(feed(columns, key="cur"))
    assert f"({common}, PRIMARY KEY (`cur`))" in creation(feed(columns, key="cur", mode="upsert"))
    assert "PRIMARY KEY (`feed_day`, `feed_row`)" in creation(feed(columns))


def test_a_server_that_refuses_a_table_without_a_primary_key_is_not_asked_again():
    assert 3750 in load.FINAL


def test_a_table_that_fits_is_left_as_it_is(feed):
    columns = {"cur": "char(3)", "rate": "decimal(12,6)", "is_new": "boolean", "n": "int unsigned"}
    there = {
        "cur": ("varchar(10)", "NO"),
        "rate": ("decimal(20,8)", "YES"),
        "is_new": ("tinyint(1)", "YES"),
        "n": ("bigint", "YES"),
        "more": ("enum('a')", "YES"),
        **OWN,
    }
    table = Table(there, {"PRIMARY": ["feed_day", "cur"]})
    assert make_table(table, feed(columns, key="cur")) == []
    assert not [statement for statement in table.statements if not statement.startswith(("SHOW", "SELECT"))]
    # A table without a key, which was made before tables got one.
    assert make_table(Table(there, {}), feed(columns)) == []


@pytest.mark.parametrize(
    ("there", "wanted", "alter"),
    [
        ("decimal(12,2)", "decimal(12,6)", "MODIFY COLUMN `v` decimal(16,6) NULL"),
        ("decimal(20,2)", "decimal(12,6)", "MODIFY COLUMN `v` decimal(24,6) NULL"),
        ("datetime", "datetime(3)", "MODIFY COLUMN `v` datetime(3) NULL"),
        ("date", "datetime", "MODIFY COLUMN `v` datetime NULL"),
        ("float", "double", "MODIFY COLUMN `v` double NULL"),
        ("int", "decimal(10,2)", "MODIFY COLUMN `v` decimal(10,2) NULL"),
        (
            "char(10)",
            "varchar(10)",
            "MODIFY COLUMN `v` varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NULL",
        ),
        ("date", "text", "MODIFY COLUMN `v` text NULL"),
    ],
)
def test_a_column_that_would_change_values_is_refused_with_the_alter(feed, there, wanted, alter):
    table = Table({"v": (there, "YES"), **OWN}, {})
    with pytest.raises(ValueError, match="would change values") as refused:
        make_table(table, feed({"v": wanted}))
    assert f"v is {there}, and the feed says {wanted}" in str(refused.value)
    assert f"ALTER TABLE `t` {alter}." in str(refused.value)
    assert "until their days are loaded again" in str(refused.value)


@pytest.mark.parametrize(
    ("there", "wanted", "to"),
    [
        ("varchar(10)", "varchar(50)", "varchar(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"),
        ("varchar(10)", "text", "text CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"),
        ("int", "bigint", "bigint"),
        ("int", "int unsigned", "bigint"),
        ("bigint", "bigint unsigned", "decimal(20,0)"),
        ("decimal(10,2)", "decimal(14,2)", "decimal(14,2)"),
    ],
)
def test_a_column_that_refuses_some_values_is_said_with_the_alter(feed, there, wanted, to):
    [said] = make_table(Table({"v": (there, "YES"), **OWN}, {}), feed({"v": wanted}))
    assert said == (f"column v is {there}, and the feed says {wanted}: ALTER TABLE `t` MODIFY COLUMN `v` {to} NULL")


def refusal(feed, there, keys):
    with pytest.raises(ValueError, match="ALTER TABLE `t`") as refused:
        make_table(Table({**there, **OWN}, keys), feed)
    return str(refused.value)


CURRENCY = {"cur": ("char(3)", "NO"), "kind": ("varchar(4)", "YES"), "rate": ("decimal(12,2)", "YES")}
COLUMNS = {"cur": "char(3)", "kind": "varchar(4)", "rate": "decimal(12,2)"}


@pytest.mark.parametrize(
    ("mode", "day", "said"), [("upsert", [], "`cur`, `kind`"), ("replace", ["feed_day"], "`feed_day`, `cur`, `kind`")]
)
def test_a_longer_key_takes_the_place_of_the_older_one(feed, mode, day, said):
    message = refusal(feed(COLUMNS, key=["cur", "kind"], mode=mode), CURRENCY, {"PRIMARY": [*day, "cur"]})
    kind = "MODIFY COLUMN `kind` varchar(4) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL"
    assert f"ALTER TABLE `t` DROP PRIMARY KEY, {kind}, ADD PRIMARY KEY ({said})." in message
    assert "delete the rows in which kind is NULL" in message
    assert "are there when their days are loaded again" in message


def test_an_older_key_beside_the_new_one_is_refused(feed):
    """The ALTER TABLE that earlier versions said leaves both: records would replace each other."""
    keys = {"PRIMARY": ["cur"], "cur": ["cur", "kind"]}
    message = refusal(feed(COLUMNS, key=["cur", "kind"], mode="upsert"), CURRENCY, keys)
    assert "has an older unique key, under which records would replace each other" in message
    assert "DROP PRIMARY KEY" in message
    assert "ADD PRIMARY KEY (`cur`, `kind`)" in message


def test_a_shorter_key_keeps_the_newest_of_each(feed):
    message = refusal(feed(COLUMNS, key="cur", mode="upsert"), CURRENCY, {"PRIMARY": ["feed_day", "cur"]})
    # (feed_day, cur) is no other key for cur, but none that finds the row of another day.
    assert "ADD UNIQUE KEY (`cur`)" in message
    assert "DELETE older FROM `t` AS older JOIN `t` AS newer ON older.`cur` = newer.`cur`" in message


def test_a_key_of_somebody_else_stays(feed):
    there = {"id": ("bigint", "NO"), **CURRENCY, "kind": ("varchar(4)", "NO")}
    keys = {"PRIMARY": ["id"], "own": ["cur", "kind"]}
    assert make_table(Table({**there, **OWN}, keys), feed(COLUMNS, key=["cur", "kind"], mode="upsert")) == []


def test_a_new_key_column_says_that_the_rows_have_none(feed):
    there = {name: column for name, column in CURRENCY.items() if name != "kind"}
    message = refusal(feed(COLUMNS, key=["cur", "kind"], mode="upsert"), there, {"PRIMARY": ["cur"]})
    assert "ADD COLUMN `kind` varchar(4) NOT NULL, DROP PRIMARY KEY, ADD PRIMARY KEY (`cur`, `kind`)" in message
    assert "empty the table (TRUNCATE TABLE `t`); then load all days again" in message


def test_the_table_of_another_feed_is_refused(feed):
    with pytest.raises(ValueError, match="the feed other loads into table t"):
        make_table(Table({}, {}, other=[("other",)]), feed(COLUMNS))


@pytest.mark.parametrize(
    ("there", "wanted", "result"),
    [
        ("varchar(5)", "date", "narrow"),
        ("varchar(100)", "date", "fits"),
        ("datetime", "date", "fits"),
        ("datetime", "timestamp", "changes"),
        ("timestamp", "datetime", "changes"),
        ("int", "date", "changes"),
        ("longtext", "json", "fits"),
        ("json", "text", "changes"),
        ("binary(4)", "varbinary(4)", "changes"),
        ("mediumtext", "varchar(16383)", "fits"),
        ("decimal(10,0)", "int", "fits"),
        ("decimal(9,0)", "int", "narrow"),
        ("decimal(12,4) unsigned", "decimal(10,2)", "narrow"),
        ("int(11) unsigned", "int unsigned", "fits"),
        ("geometry", "text", "fits"),
    ],
)
def test_how_a_column_takes_the_values_of_another_type(there, wanted, result):
    assert held(kind_of(there), kind_of(wanted)) == result
    if result == "narrow":
        assert held(kind_of(united(there, wanted)), kind_of(wanted)) == "fits"


# -- Options in the feed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            {"type": "date", "decimal": ","},
            r"load.columns.v: decimal is for integer and decimal and float, .*remove it",
        ),
        ({"type": "int", "format": "%Y-%m-%d"}, r"load.columns.v: format is for date"),
        ({"type": "int", "thousands": ";"}, r"load.columns.v.thousands: ';'"),
        ({"type": "int", "thousands": ".", "decimal": "."}, r"decimal and thousands are both '\.'"),
        ({"type": "date", "format": "%d.%m"}, r"load.columns.v.format: .*a day is a year, a month and a day"),
        ({"type": "time", "format": "%Y-%m-%d %H:%M"}, r"does not fit the type time: write hours and minutes only"),
        ({"type": "date", "format": "%H:%M"}, r"does not fit the type date: it says no day"),
        ({"type": "date", "format": "%Y-%m-%d", "epoch": "s"}, r"format and epoch are both there: remove one"),
        ({"type": "date", "epoch": "min"}, r"load.columns.v.epoch: 'min'"),
        ({"type": "timestamp", "timezone": "Seoul"}, r"load.columns.v.timezone: 'Seoul': no such time zone"),
        ({"type": "boolean", "true_values": ["Y"]}, r"true_values and false_values belong together"),
        ({"type": "boolean", "true_values": [True], "false_values": ["N"]}, r"YAML takes a word for True: write it in"),
        ({"type": "int", "null_values": [-9999]}, r"YAML takes a word for -9999: write it in quotes"),
        ({"type": "boolean", "true_values": "Y", "false_values": "N", "null_values": "N"}, r"'N' stands twice"),
        ({"type": "int", "places": 2, "percent": "keep"}, r"places says where the decimals begin: remove percent"),
        ({"type": "decimal(10,12)"}, r"type: 'decimal\(10,12\)': write digits and places, such as decimal\(12,6\)"),
        ({"type": "varchar(70000)"}, r"type: 'varchar\(70000\)': at most 16383 in brackets"),
        ({"type": "int", "null_value": "x"}, r"load.columns.v.null_value: not a field: did you mean null_values\?"),
    ],
)
def test_an_option_that_cannot_be_right_names_field_value_and_remedy(feed, column, message):
    with pytest.raises(ValueError, match=message):
        feed({"v": column})


def test_an_option_of_all_columns_that_none_takes_is_refused(feed):
    with pytest.raises(ValueError, match="load: decimal: ',': no column has a type that it is for: remove it"):
        feed({"v": "text"}, decimal=",")
    with pytest.raises(ValueError, match=r"load: columns\.v: decimal and thousands are both"):
        feed({"v": {"type": "int", "thousands": ","}}, decimal=",")


def test_a_german_export_says_its_forms_once(feed, tmp_path):
    columns = {
        "day": "date",
        "at": {"type": "time", "optional": True},
        "amount": "decimal(12,2)",
        "share": {"type": "decimal(5,4)", "percent": "fraction"},
        "pieces": "int",
        "cents": {"type": "decimal(10,2)", "places": 2},
        "note": "text",
    }
    small = feed(columns, decimal=",", thousands=".", format=["%d.%m.%y", "%H%M"], null_values=["N/A"])
    path = tmp_path / "file"
    path.write_text(
        "day,at,amount,share,pieces,cents,note\n"
        '20.10.25,0700,"-1.234,56","12,5%",1.234,12345,"1.234,56"\n'
        "N/A,N/A,N/A,N/A,N/A,N/A,N/A\n"
    )
    found = [[value if value is None else str(value) for value in row] for _, row in rows(small, path)]
    assert found[0] == ["2025-10-20", "07:00:00", "-1234.56", "0.125", "1234", "123.45", "1.234,56"]
    assert found[1] == [None] * 7


def test_a_trial_needs_no_database_and_says_each_reason(feed, tmp_path):
    small = feed({"id": "int", "name": "varchar(3)"}, key="id", reject_limit=2)
    path = tmp_path / "file"
    path.write_text("id,name\n1,one\nx,two\n,new\n4,four\n")
    found = trial(small, path)
    assert (found.records, found.rejected) == (4, 3)
    assert [(number, bad.reason) for number, bad in found.first] == [
        (2, "id: 'x' is not an integer such as 1234; other forms have fields: decimal, thousands, negative, percent,"
         " places"),
        (3, "id: '' is empty, and the column belongs to the key"),
        (4, "name: 'four' has 4 characters, and varchar(3) takes 3"),
    ]  # fmt: skip
    assert found.refused == "3 of 4 records are bad (load.reject_limit: 2)"
    path.write_text("id,name\n")
    assert trial(small, path).refused == "it has no records"
    path.write_text("other\n1\n")
    assert "header has no id, name" in trial(small, path).refused


def test_files_on_the_nas_are_tried_one_by_one(feed, tmp_path, monkeypatch):
    monkeypatch.setattr(nas, "FILESTORAGE", tmp_path)
    (tmp_path / nas.GUARD).touch()
    small = feed({"id": "decimal(4,1)"})
    manifests = [nas.publish(small.path_of(DAY), b"id\n1.25\n", day=DAY)]
    manifests.append(manifests[0] | {"path": str(small.directory / "gone.csv")})
    tried, gone = trials(small, manifests)
    assert "id: '1.25' has 2 decimal places" in tried.first[0][1].reason
    assert tried.refused == "1 of 1 records are bad (load.reject_limit: 0)"
    assert "gone.csv" in gone.refused


# -- Loading ----------------------------------------------------------------------------------------------------


def test_a_session_writes_instants_in_utc(feed, monkeypatch):
    connection = MagicMock()
    hook = SimpleNamespace(MySqlHook=lambda **_: SimpleNamespace(get_conn=lambda: connection))
    monkeypatch.setitem(__import__("sys").modules, "airflow.providers.mysql.hooks.mysql", hook)
    with load.database(feed(COLUMNS)):
        pass
    assert "time_zone = '+00:00'" in str(connection.cursor.return_value.execute.call_args_list[0])


def test_bytes_reach_the_table_whatever_they_are(feed, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"id,raw\n1,\xff\xfe\n2,\xff\n")
    cursor = MagicMock()
    cursor.fetchall.return_value = []
    load._insert(cursor, feed({"id": "int", "raw": "blob"}), path, "2025-10-20", None, ("small", str(path), "0"))
    statement, values = cursor.execute.call_args_list[0].args
    assert "(%s, UNHEX(%s), %s, %s)" in statement
    assert values == [1, "fffe", "2025-10-20", 1, 2, "ff", "2025-10-20", 2]


def test_a_warning_of_mysql_refuses_the_file(feed, tmp_path):
    path = tmp_path / "file"
    path.write_text("cur,kind,rate\nUSD,buy,1.10\n")
    cursor = MagicMock()
    cursor.fetchall.return_value = [("Note", 1265, "Data truncated for column 'rate' at row 1")]
    with pytest.raises(ValueError, match="MySQL warns, nothing of the file is loaded: 1265: Data truncated for column"):
        load._insert(cursor, feed(COLUMNS), path, "2025-10-20", None, ("small", str(path), "0"))
    cursor.fetchall.return_value = [("Warning", 1287, "'x' is deprecated")]
    assert load._insert(cursor, feed(COLUMNS), path, "2025-10-20", None, ("small", str(path), "0")) == (1, 0)
