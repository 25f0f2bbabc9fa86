#include "tools/tollctl/nouns.h"

#include <memory>

#include "libs/base/strings.h"
#include "tools/tollctl/invocation.h"

namespace tollhouse::tollctl {
namespace {

// A completion function that offers nouns, then the verbs of the noun.
constexpr char kBashCompletion[] = R"(_tollctl() {
  local words cur=${COMP_WORDS[COMP_CWORD]}
  if [ "$COMP_CWORD" -eq 1 ]; then
    words=$(tollctl completion --words | cut -d' ' -f1 | sort -u)
  elif [ "$COMP_CWORD" -eq 2 ]; then
    words=$(tollctl completion --words | sed -n "s/^${COMP_WORDS[1]} //p")
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F _tollctl tollctl
)";

void RegisterCompletion(CommandLine& commands) {
  const auto words = std::make_shared<bool>(false);
  commands.AddNoun("completion", "Prints a completion function for bash")
      .AddVerb("", "Prints a completion function for bash")
      .Flag("--words", words.get(), "print the commands, one a line")
      .Example("source <(tollctl completion)")
      .Run([words, &commands](Invocation& in) {
        *in.environment.out << (*words ? commands.Words() : kBashCompletion);
        return absl::OkStatus();
      });
}

}  // namespace

void RegisterNouns(CommandLine& commands) {
  RegisterAccounts(commands);
  RegisterRegister(commands);
  RegisterKey(commands);
  RegisterCredential(commands);
  RegisterKek(commands);
  RegisterBudget(commands);
  RegisterLimit(commands);
  RegisterTags(commands);
  RegisterProvider(commands);
  RegisterModel(commands);
  RegisterPrice(commands);
  RegisterApply(commands);
  RegisterSpend(commands);
  RegisterExplain(commands);
  RegisterAlert(commands);
  RegisterWebhook(commands);
  RegisterHolds(commands);
  RegisterSuspense(commands);
  RegisterLedger(commands);
  RegisterToken(commands);
  RegisterAudit(commands);
  RegisterContext(commands);
  RegisterCompletion(commands);
}

}  // namespace tollhouse::tollctl
