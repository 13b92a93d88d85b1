"""What FOCUS 1.2 asks of a file of costs, as a table; and a file becomes the list of what is wrong with it.

Beside `focus.py`, whose files these rules are for. Every column is listed with its type, whether it may be null, and
the form of its values; then the rules that need several columns. A rule is the SQL condition of the rows that break
it, so one pass over a file counts them all, at any size. The rules that say what a figure has to mean, which no check
can see, are left out.

Source: FOCUS 1.2 (focus.finops.org), and FinOps' own model of its requirements, 1.2.0.1. That model calls strings
with letters beyond ASCII wrong and the commitment discounts `Used` and `Unused` unknown; the text of the specification
does not, and counts here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow as pa

from raycluster.errors import InvalidUse

# Parquet has decimals, so money is exact. Nine places are nano-dollars, and 20 digits hold every int64 of them. A
# quantity has 18, so that quantity x unit price is off by less than half a nano-dollar, up to a price of 10^9.
MONEY = pa.decimal128(20, 9)
QUANTITY = pa.decimal128(38, 18)

_ARROW = {"text": pa.string(), "money": MONEY, "quantity": QUANTITY, "moment": pa.timestamp("us", "UTC")}
_NUMBERS = ("DECIMAL", "DOUBLE", "FLOAT")
_TYPES = {"text": ("VARCHAR",), "money": _NUMBERS, "quantity": _NUMBERS, "moment": ("TIMESTAMP WITH TIME ZONE",)}

SUBCATEGORIES = {
    "AI and Machine Learning": "AI Platforms, Bots, Generative AI, Machine Learning, Natural Language Processing",
    "Analytics": "Analytics Platforms, Business Intelligence, Data Processing, Search, Streaming Analytics",
    "Business Applications": "Productivity and Collaboration",
    "Compute": "Containers, End User Computing, Quantum Compute, Serverless Compute, Virtual Machines",
    "Databases": "Caching, Data Warehouses, Ledger Databases, NoSQL Databases, Relational Databases, "
    "Time Series Databases",
    "Developer Tools": "Developer Platforms, Continuous Integration and Deployment, Development Environments, "
    "Source Code Management, Quality Assurance",
    "Identity": "Identity and Access Management",
    "Integration": "API Management, Messaging, Workflow Orchestration",
    "Internet of Things": "IoT Analytics, IoT Platforms",
    "Management and Governance": "Architecture, Compliance, Cost Management, Data Governance, Disaster Recovery, "
    "Endpoint Management, Observability, Support",
    "Media": "Content Creation, Gaming, Media Streaming, Mixed Reality",
    "Migration": "Data Migration, Resource Migration",
    "Mobile": "",
    "Multicloud": "Multicloud Integration",
    "Networking": "Application Networking, Content Delivery, Network Connectivity, Network Infrastructure, "
    "Network Routing, Network Security",
    "Security": "Secret Management, Security Posture Management, Threat Detection and Response",
    "Storage": "Backup Storage, Block Storage, File Storage, Object Storage, Storage Platforms",
    "Web": "Application Platforms",
    "Other": "",
}  # and `Other (CATEGORY)` in each


class Column(NamedTuple):
    """A column of FOCUS. `form` is SQL that holds for its values, where `@` stands for the column."""

    name: str
    kind: Literal["text", "money", "quantity", "moment"] = "text"
    nullable: bool = True
    form: str = "trim(@) <> ''"  # no placeholder stands for a value that is not there


class Rule(NamedTuple):
    """What must not be: `broken` is the SQL condition of rows that break it."""

    column: str
    says: str
    broken: str


class Violation(NamedTuple):
    """A rule that a file breaks, and in how many rows; 0 where the file as a whole does."""

    column: str
    says: str
    rows: int


def _one_of(*values: str) -> str:
    return f"@ IN ({_quoted(values)})"


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


# An id of digits only becomes a number as soon as somebody reads it from CSV: 007 is 7, and 1e5 is 100000.
_ID = "trim(@) <> '' AND try_cast(@ AS DOUBLE) IS NULL"
_CURRENCY = "regexp_full_match(@, '[A-Z]{3}')"
_SIZE = "[KMGTPE]?i?[bB]"
_COUNT = "[A-Z][A-Za-z]*( [A-Z][A-Za-z]*)*"
_TIME = "(Year|Month|Day|Hour|Minute|Second)"
_UNIT = (
    f"regexp_full_match(@, '([0-9]+ )?({_SIZE}|{_COUNT})"
    f"(-{_TIME}s|/{_TIME}|/[0-9]+ {_TIME}s)?')"  # GB, 1000 Requests, Core-Hours, GiB/Hour, Units/3 Months
)
# One flat JSON object, in which no key stands twice.
_KEY_VALUE = (
    "CASE WHEN NOT json_valid(@) THEN false WHEN json_type(@) <> 'OBJECT' THEN false "
    "ELSE len(json_keys(@)) = len(list_distinct(json_keys(@))) AND NOT list_has_any("
    "list_transform(json_extract(@, '$.*'), lambda value: json_type(value)), ['OBJECT', 'ARRAY']) END"
)
_ANY = ""
_NOT_BELOW_0 = "@ >= 0"

COLUMNS = (
    Column("AvailabilityZone"),
    Column("BilledCost", "money", False, _ANY),
    Column("BillingAccountId", nullable=False, form=_ID),
    Column("BillingAccountName"),
    Column("BillingAccountType"),
    Column("BillingCurrency", nullable=False, form=_CURRENCY),
    Column("BillingPeriodEnd", "moment", False, _ANY),
    Column("BillingPeriodStart", "moment", False, _ANY),
    Column("CapacityReservationId", form=_ID),
    Column("CapacityReservationStatus", form=_one_of("Used", "Unused")),
    Column("ChargeCategory", nullable=False, form=_one_of("Usage", "Purchase", "Tax", "Credit", "Adjustment")),
    Column("ChargeClass", form=_one_of("Correction")),
    Column("ChargeDescription", nullable=False),  # not null by a SHOULD
    Column("ChargeFrequency", nullable=False, form=_one_of("One-Time", "Recurring", "Usage-Based")),
    Column("ChargePeriodEnd", "moment", False, _ANY),
    Column("ChargePeriodStart", "moment", False, _ANY),
    Column("CommitmentDiscountCategory", form=_one_of("Spend", "Usage")),
    Column("CommitmentDiscountId", form=_ID),
    Column("CommitmentDiscountName"),
    Column("CommitmentDiscountQuantity", "quantity", form=_ANY),
    Column("CommitmentDiscountStatus", form=_one_of("Used", "Unused")),
    Column("CommitmentDiscountType"),
    Column("CommitmentDiscountUnit", form=_UNIT),
    Column("ConsumedQuantity", "quantity", form=_ANY),
    Column("ConsumedUnit", form=_UNIT),
    Column("ContractedCost", "money", False, _ANY),
    Column("ContractedUnitPrice", "money", form=_NOT_BELOW_0),
    Column("EffectiveCost", "money", False, _ANY),
    Column("InvoiceId", form=_ID),
    Column("InvoiceIssuerName", nullable=False),
    Column("ListCost", "money", False, _ANY),
    Column("ListUnitPrice", "money", form=_NOT_BELOW_0),
    Column("PricingCategory", form=_one_of("Standard", "Dynamic", "Committed", "Other")),
    Column("PricingCurrency", nullable=False, form=_CURRENCY),
    Column("PricingCurrencyContractedUnitPrice", "money", form=_NOT_BELOW_0),
    Column("PricingCurrencyEffectiveCost", "money", False, _ANY),
    Column("PricingCurrencyListUnitPrice", "money", form=_NOT_BELOW_0),
    Column("PricingQuantity", "quantity", form=_ANY),
    Column("PricingUnit", form=_UNIT),
    Column("ProviderName", nullable=False),
    Column("PublisherName", nullable=False),
    Column("RegionId", form=_ID),
    Column("RegionName"),
    Column("ResourceId", form=_ID),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory", nullable=False, form=_one_of(*SUBCATEGORIES)),
    Column("ServiceName", nullable=False),
    Column("ServiceSubcategory", nullable=False),
    Column("SkuId", form=_ID),
    Column("SkuMeter"),
    Column("SkuPriceDetails", form=_KEY_VALUE),
    Column("SkuPriceId", form=_ID),
    Column("SubAccountId", form=_ID),
    Column("SubAccountName"),
    Column("SubAccountType"),
    Column("Tags", form=_KEY_VALUE),
)
FIELDS = [(column.name, _ARROW[column.kind]) for column in COLUMNS]

# Null together, or neither is.
_PAIRS = (
    ("BillingAccountId", "BillingAccountType"),
    ("CommitmentDiscountId", "CommitmentDiscountCategory"),
    ("CommitmentDiscountId", "CommitmentDiscountType"),
    ("CommitmentDiscountQuantity", "CommitmentDiscountUnit"),
    ("ConsumedQuantity", "ConsumedUnit"),
    ("PricingQuantity", "PricingUnit"),
    ("RegionId", "RegionName"),
    ("ResourceId", "ResourceType"),
    ("SkuId", "SkuMeter"),
    ("SubAccountId", "SubAccountName"),
    ("SubAccountId", "SubAccountType"),
)
# The second is null where the first is.
_PARTS = (
    ("CapacityReservationId", "CapacityReservationStatus"),
    ("CommitmentDiscountId", "CommitmentDiscountName"),
    ("CommitmentDiscountId", "CommitmentDiscountStatus"),
    ("ResourceId", "ResourceName"),
    ("SkuPriceId", "SkuPriceDetails"),
)
# What a price is about: null for taxes, not null for usage and purchases.
_PRICED = (
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "SkuId",
    "SkuPriceId",
)
# The second is one for each of the first.
_PARENTS = (("SkuPriceId", "SkuId"), ("ServiceName", "ServiceCategory"), ("ServiceName", "ServiceSubcategory"))

_REGULAR = "ChargeClass IS DISTINCT FROM 'Correction'"
_SOLD = f"ChargeCategory IN ('Usage', 'Purchase') AND {_REGULAR}"
_USED = "ChargeCategory = 'Usage' AND CommitmentDiscountStatus IS DISTINCT FROM 'Unused'"


def _column_rules(column: Column) -> Iterator[Rule]:
    if not column.nullable:
        yield Rule(column.name, "must not be null", f"{column.name} IS NULL")
    if column.form:
        holds = column.form.replace("@", column.name)
        yield Rule(column.name, "is not of its form, or not an allowed value", f"NOT ({holds})")


def _null_rules() -> Iterator[Rule]:
    for first, second in (*_PAIRS, *_PARTS):
        broken = f"{first} IS NULL AND {second} IS NOT NULL"
        yield Rule(second, f"must be null when {first} is", broken)
    for first, second in _PAIRS:
        yield Rule(second, f"must not be null when {first} is not", f"{first} IS NOT NULL AND {second} IS NULL")
    for name in _PRICED:
        yield Rule(name, "must be null for a tax", f"ChargeCategory = 'Tax' AND {name} IS NOT NULL")
        yield Rule(name, "must not be null for usage and purchases", f"{_SOLD} AND {name} IS NULL")
    name = "ConsumedQuantity"
    yield Rule(name, "must not be null for usage", f"{_USED} AND {_REGULAR} AND {name} IS NULL")
    yield Rule(name, "must be null for all but usage", f"NOT ({_USED}) AND {name} IS NOT NULL")


def _value_rules() -> Iterator[Rule]:
    for kind in ("List", "Contracted"):
        differs = f"abs({kind}UnitPrice * PricingQuantity - {kind}Cost) > 0.0000000005"
        yield Rule(f"{kind}Cost", "is not quantity x unit price", f"{_REGULAR} AND {differs}")
    for name in ("EffectiveCost", "ListCost", "ContractedCost"):
        broken = f"ChargeCategory = 'Credit' AND {name} <> BilledCost"
        yield Rule(name, "of a credit must be its BilledCost", broken)
    third = "ProviderName <> InvoiceIssuerName AND BilledCost <> 0"
    yield Rule("BilledCost", "must be 0 where a third party is paid", third)
    often = "ChargeCategory = 'Purchase' AND ChargeFrequency = 'Usage-Based'"
    yield Rule("ChargeFrequency", "must not be usage-based for a purchase", often)
    yield Rule("ChargePeriodEnd", "is before the start", "ChargePeriodEnd < ChargePeriodStart")
    yield Rule("BillingPeriodEnd", "is not after the start", "BillingPeriodEnd <= BillingPeriodStart")
    outside = "ChargePeriodStart < BillingPeriodStart OR ChargePeriodStart >= BillingPeriodEnd"
    yield Rule("ChargePeriodStart", "is not in the billing period", outside)
    inside = " OR ".join(
        f"(ServiceCategory = '{category}' AND ServiceSubcategory IN "
        f"({_quoted((*(name for name in listed.split(', ') if name), f'Other ({category})'))}))"
        for category, listed in SUBCATEGORIES.items()
    )
    yield Rule("ServiceSubcategory", "is not one of its ServiceCategory", f"NOT ({inside})")


RULES = (*(rule for column in COLUMNS for rule in _column_rules(column)), *_null_rules(), *_value_rules())


def violations(path: Path) -> list[Violation]:
    """Return which rules a Parquet file breaks; none where it is good.

    Raises:
        InvalidUse: the file is no Parquet.
    """
    with duckdb.connect() as connection:
        try:
            connection.execute(f"CREATE VIEW costs AS FROM read_parquet({_literal(path)})")
        except duckdb.Error as error:
            raise InvalidUse(f"{path}: {str(error).splitlines()[0]}", fix="give a Parquet file") from error
        types = {name: kind for name, kind, *_ in connection.execute("DESCRIBE costs").fetchall()}
        wrong = list(_layout(types))
        return wrong or [*_broken(connection), *_orphans(connection)]


def _literal(path: Path) -> str:
    escaped = str(path).replace("'", "''")
    return f"'{escaped}'"


def _layout(types: dict[str, str]) -> Iterator[Violation]:
    """Yield which columns are missing, of another type, or not to be there."""
    known = {column.name: column for column in COLUMNS}
    for name, column in known.items():
        if name not in types:
            yield Violation(name, "is missing", 0)
        elif types[name].partition("(")[0] not in _TYPES[column.kind]:
            yield Violation(name, f"is of type {types[name]}, not {' or '.join(_TYPES[column.kind])}", 0)
    own = [place for place, name in enumerate(types) if name not in known]
    for place, name in enumerate(types):
        if name not in known and not name.startswith("x_"):
            yield Violation(name, "is no column of FOCUS: a column of one's own begins with x_", 0)
        elif name in known and own and place > own[0]:
            yield Violation(name, "stands after a column that is not FOCUS'", 0)


def _broken(connection: Any) -> Iterator[Violation]:
    counted = ", ".join(f"count(*) FILTER (WHERE {rule.broken})" for rule in RULES)
    counts = connection.execute(f"SELECT {counted} FROM costs").fetchone()
    for rule, rows in zip(RULES, counts, strict=True):
        if rows:
            yield Violation(rule.column, rule.says, rows)


def _orphans(connection: Any) -> Iterator[Violation]:
    """Yield names that have two parents, with the number of such names."""
    for name, parent in _PARENTS:
        twice = f"SELECT {name} FROM costs GROUP BY {name} HAVING count(DISTINCT {parent}) > 1"
        (count,) = connection.execute(f"SELECT count(*) FROM ({twice})").fetchone()
        if count:
            yield Violation(name, f"has more than one {parent}", count)
