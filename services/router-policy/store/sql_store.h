// The store in a SQL database: a SQLite file in the embedded form, PostgreSQL behind several replicas.
#pragma once

#include <memory>

#include "libs/sql/database.h"
#include "libs/sql/open.h"
#include "services/router-policy/store/store.h"

namespace tollhouse::router {

sql::Schema StoreSchema();

// On a database of that schema, which outlives the store.
std::unique_ptr<Store> MakeSqlStore(sql::Database* database);

}  // namespace tollhouse::router
