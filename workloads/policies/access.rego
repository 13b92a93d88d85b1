# Who may read and add what, by roles; what partners and the public see of it. Who has which role: `data.yaml`, tokens, JWTs.
package data.access.policy

default allow := false

# Datasets: `data.yaml` says which role may read and add which.
allow if {
	input.path[0] == "data"
	some role in input.user.roles
	input.path[1] in data.grants[role][input.method]
}

# Lists of datasets (of which each sees their own), runs and what runs cost: whoever has a role at all.
allow if {
	input.method == "GET"
	input.path[0] in {"datasets", "runs", "costs"}
	count(input.user.roles) > 0
}

# Monitoring.
allow if {
	input.method == "GET"
	input.path == ["metrics"]
	"monitor" in input.user.roles
}

is_staff if "staff" in input.user.roles

# Partners see pictures only, of their own team's folder. `team` is null where nobody said one: then they see nothing.
rowFilters contains {"expression": "modality = 'image'"} if not is_staff

rowFilters contains {"expression": sprintf("starts_with(uri, %s)", [quoted(folder)])} if {
	not is_staff
	folder := sprintf("s3://media/%s/", [input.user.team])
	input.user.team != null
}

rowFilters contains {"expression": "false"} if {
	not is_staff
	input.user.team == null
}

# What a text says shows in its vectors too: whoever may not read the one may not search by the others.
columnMask := {"expression": "NULL"} if {
	not is_staff
	input.column.name in {"text", "vector", "minilm", "features.latitude", "features.longitude"}
}

# Values become SQL here and nowhere else: a quote in one must not end the text.
quoted(text) := sprintf("'%s'", [replace(text, "'", "''")])
