// SPDX-License-Identifier: Apache-2.0
/*
 * Every key of godwitd.conf: type, default, limits, explanation. Constant data. The sample file
 * data/godwitd.conf is made from it, and man/godwitd.conf.5 tells the same.
 */
#include "daemon/config_keys.h"

#define MEMBER(name) .offset = offsetof(GwConfig, name)

#define SECOND (1000ll)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)

static const char *const accels[] = {"auto", "kvm", "tcg", NULL};
static const char *const levels[] = {"info", "debug", NULL};

const GwConfigKey gw_config_keys[] = {
    {"host", "name", GW_CONFIG_NAME, MEMBER(host_name), .default_text = "",
     .help = "This host's name in the fleet and in its certificate.\n"
             "Empty: the machine's host name up to the first dot."},
    {"host", "state-dir", GW_CONFIG_PATH, MEMBER(state_dir), .default_text = "/var/lib/godwit",
     .help = "What must survive a reboot: the store, the identity (pki/), logs of guests."},
    {"host", "run-dir", GW_CONFIG_PATH, MEMBER(run_dir), .default_text = "/run/godwit",
     .help = "Sockets of the daemon and of the guests."},
    {"host", "api-socket", GW_CONFIG_TEXT, MEMBER(api_socket), .default_text = "godwitd.sock",
     .min = 1, .max = 100,
     .help = "Where the godwit command finds the daemon; a relative path begins in run-dir."},
    {"host", "api-group", GW_CONFIG_TEXT, MEMBER(api_group), .default_text = "godwit", .max = 32,
     .help = "The members of this group may do everything that the godwit command can.\n"
             "Empty, or no such group: root only."},

    {"peer", "bind", GW_CONFIG_ADDRESS, MEMBER(peer_bind), .default_text = "::",
     .help = "The address on which other hosts reach this one. \"::\" is all of them, also IPv4."},
    {"peer", "port", GW_CONFIG_NUMBER, MEMBER(peer_port), .default_text = "7790", .min = 1,
     .max = 65535, .help = "TCP port of the same."},
    {"peer", "connect-timeout", GW_CONFIG_DURATION, MEMBER(connect_timeout_ms),
     .default_text = "5 s", .min = 100, .max = 5 * MINUTE,
     .help = "A host that does not answer for so long counts as unreachable."},
    {"peer", "session-timeout", GW_CONFIG_DURATION, MEMBER(session_timeout_ms),
     .default_text = "2 min", .min = 2 * SECOND, .max = HOUR,
     .help = "How long the link between two hosts may be gone before a move fails."},

    {"qemu", "binary", GW_CONFIG_TEXT, MEMBER(qemu_binary), .default_text = "qemu-system-x86_64",
     .min = 1, .max = 4000, .help = "QEMU: an absolute path, or a name that is looked up in PATH."},
    {"qemu", "user", GW_CONFIG_TEXT, MEMBER(qemu_user), .default_text = "godwit-qemu", .max = 32,
     .help = "The unprivileged user that QEMU runs as. Empty: the daemon's own, which gives up\n"
             "the protection."},
    {"qemu", "accel", GW_CONFIG_CHOICE, MEMBER(accel), .default_text = "auto", .choices = accels,
     .help = "auto proves KVM by running a tiny guest and falls back to tcg (emulation)."},

    {"migration", "prepare-timeout", GW_CONFIG_DURATION, MEMBER(prepare_timeout_ms),
     .default_text = "1 min", .min = SECOND, .max = HOUR,
     .help = "A move fails when the checks and the start of the target's QEMU take longer."},
    {"migration", "precopy-timeout", GW_CONFIG_DURATION, MEMBER(precopy_timeout_ms),
     .default_text = "1 h", .min = SECOND, .max = 7 * 24 * HOUR,
     .help = "A move fails when the guest's memory has not converged by then."},
    {"migration", "switchover-timeout", GW_CONFIG_DURATION, MEMBER(switchover_timeout_ms),
     .default_text = "30 s", .min = SECOND, .max = HOUR,
     .help = "A stopped guest goes on running on the source when its last pages take longer."},
    {"migration", "refuse-timeout", GW_CONFIG_DURATION, MEMBER(refuse_timeout_ms),
     .default_text = "1 min", .min = SECOND, .max = HOUR,
     .help = "How long a target with a loaded guest waits for the source's word to start it."},
    {"migration", "downtime-limit", GW_CONFIG_DURATION, MEMBER(downtime_limit_ms),
     .default_text = "300 ms", .min = 1, .max = MINUTE,
     .help = "How long the guest may stand still at the switchover, unless the move says else."},
    {"migration", "max-bandwidth", GW_CONFIG_SIZE, MEMBER(max_bandwidth), .default_text = "0",
     .max = 1ll << 50,
     .help = "Bytes per second that a move may send, unless it says else. 0: no limit."},
    {"migration", "direct-ports", GW_CONFIG_PORTS, MEMBER(direct_ports),
     .default_text = "49152-49215", .min = 1024, .max = 65535,
     .help = "TCP ports on which moves with --transport direct or plain are waited for."},
    {"migration", "plain-networks", GW_CONFIG_NETWORKS, MEMBER(plain_networks), .default_text = "",
     .help =
         "Networks on which a guest's memory may travel unencrypted and undigested, if the other\n"
         "host's configuration allows it, too: who can listen on or write to them can read and\n"
         "change it. For links of 10 Gbit/s and more that only hosts have access to, e.g.\n"
         "10.77.0.0/24, fd00:77::/64. Empty: never."},
    {"migration", "max-incoming", GW_CONFIG_NUMBER, MEMBER(max_incoming), .default_text = "4",
     .min = 1, .max = 64, .help = "Moves to this host at the same time."},
    {"migration", "history", GW_CONFIG_NUMBER, MEMBER(history), .default_text = "1000", .min = 1,
     .max = 100000, .help = "Records of finished moves that are kept."},
    {"migration", "visits-size", GW_CONFIG_SIZE, MEMBER(visits_size), .default_text = "0",
     .max = 1ll << 50,
     .help = "What this host may keep, together, of the memory of VMs that have left: a VM that\n"
             "comes back is then sent only what has changed since. It is written to state-dir as\n"
             "the VM leaves, a tenth of the file system stays free. 0: nothing is kept."},
    {"migration", "visits-age", GW_CONFIG_DURATION, MEMBER(visits_age_ms), .default_text = "24 h",
     .min = MINUTE, .max = 365 * 24 * HOUR, .help = "How long it is kept."},

    {"lane", "connections", GW_CONFIG_NUMBER, MEMBER(connections), .default_text = "0", .max = 8,
     .help = "TCP connections that a move uses at once, unless it says else. 0: by measure of the\n"
             "round trip and this host's cores."},
    {"lane", "congestion", GW_CONFIG_TEXT, MEMBER(congestion), .default_text = "", .max = 15,
     .help = "TCP's congestion control between hosts, e.g. bbr or cubic, if the kernel has it.\n"
             "Empty: the system's; bbr, if the kernel has it, on far paths that lose packets."},
    {"lane", "silence", GW_CONFIG_DURATION, MEMBER(silence_ms), .default_text = "3 s", .min = 200,
     .max = MINUTE,
     .help =
         "A connection that is silent for so long is in doubt: another one is opened beside it."},

    {"log", "level", GW_CONFIG_CHOICE, MEMBER(log_level), .reloads = true, .default_text = "info",
     .choices = levels, .help = "info tells what an operator wants to read, debug everything."},
};
const size_t gw_config_n_keys = G_N_ELEMENTS(gw_config_keys);
