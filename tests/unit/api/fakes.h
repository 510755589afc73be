// SPDX-License-Identifier: Apache-2.0
/* What the fake backends noted and what they shall do. */
#pragma once

#include "fleet/identity.h"
#include "fleet/peers.h"
#include "migrate/migrate.h"
#include "vm/vm.h"

#define FAKE_MOVE "m-000000000001"

extern GString *fake_calls;
extern GError *fake_error;
extern char *fake_log_path;
extern GwVmState fake_vm_state;
extern bool fake_move_final;
/* Set: reports wait here for fake_report_held(). */
extern GPtrArray *fake_held;
void fake_report_held(void);

/* As if a move changed; @event is transfer full. */
void fake_move_event(json_t *event);
