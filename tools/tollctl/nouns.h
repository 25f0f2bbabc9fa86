// The commands of tollctl, one file per noun.
#pragma once

#include "tools/tollctl/command_line.h"

namespace tollhouse::tollctl {

void RegisterAccounts(CommandLine& commands);  // org, team, user: account.cc
void RegisterKey(CommandLine& commands);
void RegisterCredential(CommandLine& commands);
void RegisterKek(CommandLine& commands);
void RegisterBudget(CommandLine& commands);
void RegisterLimit(CommandLine& commands);
void RegisterTags(CommandLine& commands);
void RegisterRegister(CommandLine& commands);
void RegisterProvider(CommandLine& commands);
void RegisterPrice(CommandLine& commands);
void RegisterModel(CommandLine& commands);
void RegisterSpend(CommandLine& commands);
void RegisterHolds(CommandLine& commands);
void RegisterSuspense(CommandLine& commands);
void RegisterExplain(CommandLine& commands);
void RegisterLedger(CommandLine& commands);
void RegisterAudit(CommandLine& commands);
void RegisterToken(CommandLine& commands);
void RegisterAlert(CommandLine& commands);
void RegisterWebhook(CommandLine& commands);
void RegisterApply(CommandLine& commands);  // apply and export
void RegisterContext(CommandLine& commands);

// All of them, in the order of the overview.
void RegisterNouns(CommandLine& commands);

}  // namespace tollhouse::tollctl
