package admin

import "strings"

// noSecret stands in a dump for what the daemon does not tell.
const noSecret = "PLEASE_CORRECT_THE_PASSWORD"

// doDump writes the daemon's targets as a configuration: stores, accounts and rules. Unit numbers and
// parameters are not in it. What the rules are is guessed from their form, as tgt does: all but plain
// addresses are written as names.
func (a *admin) doDump() error {
	targets := a.state.targets
	if len(targets) == 0 {
		return nil
	}
	common := true
	for _, t := range targets {
		common = common && t.driver == targets[0].driver
	}
	if common {
		a.print("default-driver %s\n", targets[0].driver)
	}
	for _, t := range targets {
		a.print("<target %s>", t.name)
		if !common {
			a.print("\tdriver %s", t.driver)
		}
		for _, path := range t.stores {
			a.print("\tbacking-store %s", path)
		}
		for _, outgoing := range []bool{false, true} {
			for _, who := range t.accounts {
				if who.outgoing == outgoing {
					a.print("\t%s %s %s", userKey(outgoing), who.name, noSecret)
				}
			}
		}
		if len(t.rules) != 1 || t.rules[0] != "ALL" {
			for _, rule := range t.rules {
				a.print("\t%s %s", ruleKey(rule), rule)
			}
		}
		a.print("</target>\n")
	}
	return nil
}

func userKey(outgoing bool) string {
	if outgoing {
		return "outgoinguser"
	}
	return "incominguser"
}

func ruleKey(rule string) string {
	if strings.Trim(rule, "0123456789.,E") == "" {
		return "initiator-address"
	}
	return "initiator-name"
}
