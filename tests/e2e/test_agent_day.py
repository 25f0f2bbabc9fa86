"""The replayed day of coding agents keeps what the design promises of holds."""

import agent_day
import stack as stacks


def test_a_day_of_coding_agents(fresh, capsys):
    # The whole day takes a minute; a quarter of the cap shows the same but for the sum.
    day = agent_day.run(fresh, cap_usd=20 if stacks.LONG else 8)
    with capsys.disabled():
        print("\n" + agent_day.report(day))
    assert day["billed"] == day["spent"] <= day["cap"]
    assert day["suspense"] == 0
    assert day["used"] >= (0.9 if stacks.LONG else 0.8)
    assert day["first_final_refusal"] >= 0.75
