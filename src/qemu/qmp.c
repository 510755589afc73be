// SPDX-License-Identifier: Apache-2.0
/*
 * The QMP client of one monitor socket.
 *
 * Owns the socket, the commands that wait to be written (`outbox`) or answered (`sent`), and those
 * that could not be taken at all (`refused`). Main context only. Every callback runs from a source
 * of the main context, so none runs inside a call, and each may free the client: it stays allocated
 * until the source that called has returned.
 *
 * With its capability "oob" QEMU's monitor thread reads ahead of the main loop, which runs all
 * commands but those out of band. It stops reading when 8 wait for the main loop, and a descriptor
 * that comes takes the place of one that was not fetched. So no more than MAX_IN_BAND are on their
 * way, with one descriptor among them, and what is out of band goes before all that waits here.
 *
 * A sent command whose time is over stays queued without its callback, so that the late answer is
 * recognised and dropped; one that was not sent never is. An answer to no command closes the
 * monitor, as does everything that GwQmpReader rejects. Memory: one line of 8 MiB, and what our
 * callers send.
 */
#include "qemu/qmp.h"

#include "base/fd.h"
#include "base/log.h"
#include "qemu/qmp_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>

/* Of the capabilities negotiation, which precedes all others. */
#define NEGOTIATION_ID 0

/* Fewer than QEMU's QMP_REQ_QUEUE_LEN_MAX (8). */
#define MAX_IN_BAND 4u

typedef enum State {
    STATE_GREETING, /* QEMU has to speak first */
    STATE_NEGOTIATING,
    STATE_READY,
    STATE_CLOSED,
} State;

typedef struct Call {
    int64_t id;
    char *command;
    char *line;
    size_t line_len;
    size_t written;
    GwFd fd; /* sent along with the first byte */
    bool has_fd;
    bool out_of_band;
    int64_t deadline_us;
    bool dropped; /* nobody wants the answer any more */
    GwQmpReplyFn reply;
    void *data;
    GError *refusal;
} Call;

struct GwQmp {
    unsigned refs;
    bool freed;
    State state;
    char *path;
    GwFd fd;
    GwQmpReader *reader;
    GwQmpHandlers handlers;
    void *data;
    unsigned version;
    int64_t last_id;
    int64_t timeout_us;
    int64_t greeting_deadline_us;
    GQueue outbox;
    GQueue sent;
    GQueue refused;
    guint read_source;
    guint write_source;
    guint timer_source;
    int64_t timer_at_us;
    guint refused_source;
};

static void
call_free(Call *call)
{
    g_free(call->command);
    g_free(call->line);
    gw_fd_close(call->fd);
    g_clear_error(&call->refusal);
    g_free(call);
}

static void
clear_source(guint *source)
{
    if (*source) {
        g_source_remove(*source);
        *source = 0;
    }
}

static void
clear_calls(GQueue *queue)
{
    Call *call;

    while ((call = g_queue_pop_head(queue))) {
        call_free(call);
    }
}

static void
unref(GwQmp *qmp)
{
    if (--qmp->refs > 0) {
        return;
    }
    gw_qmp_reader_free(qmp->reader);
    g_free(qmp->path);
    g_free(qmp);
}

static void
disconnect(GwQmp *qmp)
{
    clear_source(&qmp->read_source);
    clear_source(&qmp->write_source);
    clear_source(&qmp->timer_source);
    gw_fd_clear(&qmp->fd);
    qmp->state = STATE_CLOSED;
}

void
gw_qmp_free(GwQmp *qmp)
{
    if (!qmp || qmp->freed) {
        return;
    }
    qmp->freed = true;
    disconnect(qmp);
    clear_source(&qmp->refused_source);
    clear_calls(&qmp->outbox);
    clear_calls(&qmp->sent);
    clear_calls(&qmp->refused);
    unref(qmp);
}

/* Frees @call, which is in no queue any more, after telling who sent it. */
static void
deliver(Call *call, json_t *result, const GError *error)
{
    if (!call->dropped && call->reply) {
        call->reply(result, error, call->data);
    } else if (!call->dropped && error) {
        gw_warn(NULL, "%s", error->message);
    }
    call_free(call);
}

/* Closes the monitor and tells everybody. Takes @error. The caller holds a reference. */
static void
fail(GwQmp *qmp, GError *error)
{
    g_autoptr(GError) reason = error;
    Call *call;

    if (qmp->state == STATE_CLOSED) {
        return;
    }
    g_prefix_error(&reason, "monitor '%s': ", qmp->path);
    disconnect(qmp);
    while (!qmp->freed &&
           ((call = g_queue_pop_head(&qmp->sent)) || (call = g_queue_pop_head(&qmp->outbox)))) {
        g_autoptr(GError) cause = g_error_copy(reason);
        g_prefix_error(&cause, "QEMU did not answer '%s': ", call->command);
        deliver(call, NULL, cause);
    }
    if (!qmp->freed && qmp->handlers.closed) {
        qmp->handlers.closed(qmp, reason, qmp->data);
    }
}

/* --- timeouts --------------------------------------------------------------------------------- */

static void arm_timer(GwQmp *qmp);

static int64_t
first_deadline(const GQueue *queue, int64_t deadline_us)
{
    for (const GList *l = queue->head; l; l = l->next) {
        const Call *call = l->data;
        if (!call->dropped) {
            deadline_us = MIN(deadline_us, call->deadline_us);
        }
    }
    return deadline_us;
}

static Call *
find_expired(const GQueue *queue, int64_t now_us)
{
    for (const GList *l = queue->head; l; l = l->next) {
        Call *call = l->data;
        if (!call->dropped && call->deadline_us <= now_us) {
            return call;
        }
    }
    return NULL;
}

/* One that was sent stays in its queue: QEMU may still answer it. */
static void
expire(GwQmp *qmp, Call *call)
{
    g_autoptr(GError) error = g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                                          "QEMU did not answer '%s' in time: it may be stuck on "
                                          "storage that does not respond",
                                          call->command);

    if (call->written == 0) {
        g_queue_remove(&qmp->outbox, call);
        deliver(call, NULL, error);
        return;
    }
    call->dropped = true;
    if (call->reply) {
        call->reply(NULL, error, call->data);
    } else {
        gw_warn(NULL, "%s", error->message);
    }
}

static gboolean
on_timer(void *data)
{
    GwQmp *qmp = data;
    int64_t now_us = g_get_monotonic_time();
    Call *call;

    qmp->timer_source = 0;
    qmp->refs++;
    if (qmp->state == STATE_GREETING && qmp->greeting_deadline_us <= now_us) {
        fail(qmp, g_error_new(GW_ERROR, GW_ERROR_TIMEOUT,
                              "QEMU did not greet in time: it hangs, or another client has the "
                              "monitor"));
    }
    while (!qmp->freed && ((call = find_expired(&qmp->sent, now_us)) ||
                           (call = find_expired(&qmp->outbox, now_us)))) {
        expire(qmp, call);
    }
    arm_timer(qmp);
    unref(qmp);
    return G_SOURCE_REMOVE;
}

static void
arm_timer(GwQmp *qmp)
{
    int64_t at_us = qmp->state == STATE_GREETING ? qmp->greeting_deadline_us : G_MAXINT64;

    if (qmp->state == STATE_CLOSED) {
        return;
    }
    at_us = first_deadline(&qmp->sent, first_deadline(&qmp->outbox, at_us));
    if (at_us == G_MAXINT64 || (qmp->timer_source && qmp->timer_at_us <= at_us)) {
        return;
    }
    clear_source(&qmp->timer_source);
    int64_t wait_ms = MAX(0, (at_us - g_get_monotonic_time() + 999) / 1000);
    qmp->timer_source = g_timeout_add((guint)MIN(wait_ms, G_MAXINT), on_timer, qmp);
    qmp->timer_at_us = at_us;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* QEMU's queue for the main loop has room for @next, and its descriptor a place. */
static bool
fits_in_band(const GwQmp *qmp, const Call *next)
{
    unsigned in_band = 0;
    bool has_fd = false;

    for (const GList *l = qmp->sent.head; l; l = l->next) {
        const Call *call = l->data;
        in_band += !call->out_of_band;
        has_fd = has_fd || call->has_fd;
    }
    return in_band < MAX_IN_BAND && !(has_fd && next->has_fd);
}

static bool
may_write(const GwQmp *qmp)
{
    const Call *next = g_queue_peek_head((GQueue *)&qmp->outbox);

    if (!next || qmp->state != STATE_READY) {
        return next && qmp->state == STATE_NEGOTIATING && next->id == NEGOTIATION_ID;
    }
    return next->out_of_band || next->written > 0 || fits_in_band(qmp, next);
}

/* Behind what has begun and what is out of band, too. */
static void
push_out_of_band(GwQmp *qmp, Call *call)
{
    const GList *l = qmp->outbox.head;
    gint position = 0;

    for (; l; l = l->next, position++) {
        const Call *other = l->data;
        if (other->written == 0 && !other->out_of_band && other->id != NEGOTIATION_ID) {
            break;
        }
    }
    g_queue_push_nth(&qmp->outbox, call, position);
}

static ssize_t
send_some(GwQmp *qmp, const Call *call)
{
    struct iovec part = {call->line + call->written, call->line_len - call->written};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};

    if (call->fd >= 0 && call->written == 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &call->fd, sizeof(int));
    }
    return sendmsg(qmp->fd, &message, MSG_NOSIGNAL);
}

static gboolean
on_writable(gint fd, GIOCondition condition, void *data)
{
    GwQmp *qmp = data;

    while (may_write(qmp)) {
        Call *call = g_queue_peek_head(&qmp->outbox);
        ssize_t count = send_some(qmp, call);
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            return G_SOURCE_CONTINUE;
        }
        if (count < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            break; /* The reader finds QEMU's last words and then the end. */
        }
        if (count < 0) {
            GError *error = NULL;
            gw_set_error_errno(&error, errno, "cannot send '%s'", call->command);
            qmp->write_source = 0;
            qmp->refs++;
            fail(qmp, error);
            unref(qmp);
            return G_SOURCE_REMOVE;
        }
        call->written += (size_t)count;
        if (call->written == call->line_len) {
            gw_fd_clear(&call->fd);
            g_clear_pointer(&call->line, g_free);
            g_queue_push_tail(&qmp->sent, g_queue_pop_head(&qmp->outbox));
        }
    }
    qmp->write_source = 0;
    return G_SOURCE_REMOVE;
}

static void
start_writing(GwQmp *qmp)
{
    if (!qmp->write_source && may_write(qmp)) {
        qmp->write_source = g_unix_fd_add(qmp->fd, G_IO_OUT, on_writable, qmp);
    }
}

/* @how: "execute" or "exec-oob". */
static Call *
call_new(GwQmp *qmp, int64_t id, const char *how, const char *command, json_t *arguments)
{
    Call *call = g_new0(Call, 1);
    g_autoptr(json_t) object = json_pack("{s:s, s:I}", how, command, "id", (json_int_t)id);

    if (arguments) {
        json_object_set_new(object, "arguments", arguments);
    }
    g_autofree char *text = gw_json_text(object);
    call->id = id;
    call->command = g_strdup(command);
    call->line = g_strconcat(text, "\n", NULL);
    call->line_len = strlen(call->line);
    call->fd = GW_FD_NONE;
    call->deadline_us = g_get_monotonic_time() + qmp->timeout_us;
    return call;
}

static gboolean
on_refused(void *data)
{
    GwQmp *qmp = data;

    qmp->refused_source = 0;
    qmp->refs++;
    /* A reply that calls again is refused again, in the next round of the main loop. */
    for (guint n = qmp->refused.length; n > 0 && !qmp->freed; n--) {
        Call *call = g_queue_pop_head(&qmp->refused);
        g_autoptr(GError) error = g_steal_pointer(&call->refusal);
        deliver(call, NULL, error);
    }
    unref(qmp);
    return G_SOURCE_REMOVE;
}

static void
refuse(GwQmp *qmp, Call *call, GError *error)
{
    call->refusal = error;
    g_queue_push_tail(&qmp->refused, call);
    if (!qmp->refused_source) {
        qmp->refused_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_refused, qmp, NULL);
    }
}

/* False: refused, as the monitor is closed. */
static bool
is_open(GwQmp *qmp, Call *call)
{
    if (qmp->state == STATE_CLOSED) {
        refuse(qmp, call,
               g_error_new(GW_ERROR, GW_ERROR_UNREACHABLE,
                           "cannot send '%s': monitor '%s' is closed", call->command, qmp->path));
        return false;
    }
    return true;
}

void
gw_qmp_call_fd(GwQmp *qmp, const char *command, json_t *arguments, int fd, GwQmpReplyFn reply,
               void *data)
{
    Call *call = call_new(qmp, ++qmp->last_id, "execute", command, arguments);

    call->reply = reply;
    call->data = data;
    call->has_fd = fd >= 0;
    if (!is_open(qmp, call)) {
        return;
    }
    if (fd >= 0) {
        call->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (call->fd < 0) {
            GError *error = NULL;
            gw_set_error_errno(&error, errno, "cannot send '%s': the descriptor cannot be copied",
                               command);
            refuse(qmp, call, error);
            return;
        }
    }
    g_queue_push_tail(&qmp->outbox, call);
    start_writing(qmp);
    arm_timer(qmp);
}

void
gw_qmp_call(GwQmp *qmp, const char *command, json_t *arguments, GwQmpReplyFn reply, void *data)
{
    gw_qmp_call_fd(qmp, command, arguments, GW_FD_NONE, reply, data);
}

void
gw_qmp_call_oob(GwQmp *qmp, const char *command, json_t *arguments, GwQmpReplyFn reply, void *data)
{
    Call *call = call_new(qmp, ++qmp->last_id, "exec-oob", command, arguments);

    call->reply = reply;
    call->data = data;
    call->out_of_band = true;
    if (is_open(qmp, call)) {
        push_out_of_band(qmp, call);
        start_writing(qmp);
        arm_timer(qmp);
    }
}

static void
drop_calls(GQueue *queue, const void *data)
{
    for (GList *l = queue->head; l; l = l->next) {
        Call *call = l->data;
        if (call->data == data && call->id != NEGOTIATION_ID) {
            call->dropped = true;
        }
    }
}

void
gw_qmp_forget(GwQmp *qmp, void *data)
{
    drop_calls(&qmp->outbox, data);
    drop_calls(&qmp->sent, data);
    drop_calls(&qmp->refused, data);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void
on_negotiated(json_t *result, const GError *error, void *data)
{
    GwQmp *qmp = data;

    if (error) {
        /* If the monitor is being closed, this changes nothing. */
        fail(qmp, g_error_copy(error));
        return;
    }
    qmp->state = STATE_READY;
    start_writing(qmp);
    if (qmp->handlers.ready) {
        qmp->handlers.ready(qmp, qmp->data);
    }
}

static void
negotiate(GwQmp *qmp, const GwQmpMessage *greeting)
{
    json_t *enable = greeting->offers_oob ? json_pack("{s:[s]}", "enable", "oob") : NULL;
    Call *call = call_new(qmp, NEGOTIATION_ID, "execute", "qmp_capabilities", enable);

    call->reply = on_negotiated;
    call->data = qmp;
    qmp->version = greeting->version;
    qmp->state = STATE_NEGOTIATING;
    g_queue_push_head(&qmp->outbox, call);
    start_writing(qmp);
    arm_timer(qmp);
}

/*
 * A QEMU that is still starting may accept a connection in two threads at once and then greets
 * twice (seen with 10.0). Before the negotiation's answer that means nothing; later our commands
 * would be refused until another negotiation.
 */
static void
handle_greeting(GwQmp *qmp, const GwQmpMessage *message)
{
    switch (qmp->state) {
    case STATE_GREETING:
        negotiate(qmp, message);
        break;
    case STATE_READY:
        fail(qmp, g_error_new(GW_ERROR, GW_ERROR_PROTOCOL, "QEMU greeted again"));
        break;
    case STATE_NEGOTIATING:
    case STATE_CLOSED:
        break;
    }
}

static void
handle_answer(GwQmp *qmp, const GwQmpMessage *message)
{
    GList *found = qmp->sent.head;

    while (found && ((const Call *)found->data)->id != message->id) {
        found = found->next;
    }
    if (!found) {
        fail(qmp, g_error_new(GW_ERROR, GW_ERROR_PROTOCOL,
                              "QEMU answered command %" G_GINT64_FORMAT ", which it was not given",
                              message->id));
        return;
    }
    Call *call = found->data;
    g_autoptr(GError) error = NULL;

    g_queue_delete_link(&qmp->sent, found);
    start_writing(qmp); /* there may be room for another one */
    if (message->kind == GW_QMP_REFUSAL) {
        error = g_error_new(GW_ERROR, GW_ERROR_FAILED, "QEMU refused '%s': %s", call->command,
                            message->text);
    }
    deliver(call, message->body, error);
}

static void
handle_message(GwQmp *qmp, const GwQmpMessage *message)
{
    switch (message->kind) {
    case GW_QMP_GREETING:
        handle_greeting(qmp, message);
        return;
    case GW_QMP_RESULT:
    case GW_QMP_REFUSAL:
        handle_answer(qmp, message);
        return;
    case GW_QMP_EVENT:
        if (qmp->handlers.event) {
            qmp->handlers.event(qmp, message->text, message->body, qmp->data);
        }
        return;
    case GW_QMP_NOTHING:
        return;
    }
}

/* One read per turn of the main loop: a QEMU that floods us takes no more than its share. */
static bool
read_some(GwQmp *qmp, GError **error)
{
    char buffer[GW_QMP_READ_MAX_BYTES];
    ssize_t count = read(qmp->fd, buffer, sizeof buffer);

    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    /* The reset is that of a QEMU that ended before it accepted us. */
    if (count == 0 || (count < 0 && errno == ECONNRESET)) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNREACHABLE, "QEMU closed it");
        return false;
    }
    if (count < 0) {
        gw_set_error_errno(error, errno, "cannot read");
        return false;
    }
    return gw_qmp_reader_push(qmp->reader, buffer, (size_t)count, error);
}

static gboolean
on_readable(gint fd, GIOCondition condition, void *data)
{
    GwQmp *qmp = data;
    GError *error = NULL;

    qmp->refs++;
    bool good = read_some(qmp, &error);
    while (good && qmp->state != STATE_CLOSED) {
        g_auto(GwQmpMessage) message = {.kind = GW_QMP_NOTHING};
        good = gw_qmp_reader_next(qmp->reader, &message, &error);
        if (!good || message.kind == GW_QMP_NOTHING) {
            break;
        }
        handle_message(qmp, &message);
    }
    if (!good) {
        fail(qmp, error);
    }
    bool open = qmp->state != STATE_CLOSED;
    unref(qmp);
    return open ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* --- the rest --------------------------------------------------------------------------------- */

GwQmp *
gw_qmp_open(const char *path, const GwQmpHandlers *handlers, void *data, GError **error)
{
    g_auto(GwFd) fd = gw_unix_connect(path, error);

    if (fd < 0 || !gw_fd_set_nonblocking(fd, true, error)) {
        g_prefix_error(error, "QEMU's monitor: ");
        return NULL;
    }
    GwQmp *qmp = g_new0(GwQmp, 1);
    qmp->refs = 1;
    qmp->path = g_strdup(path);
    qmp->fd = g_steal_fd(&fd);
    qmp->reader = gw_qmp_reader_new();
    qmp->handlers = *handlers;
    qmp->data = data;
    qmp->timeout_us = (int64_t)GW_QMP_TIMEOUT_MS * 1000;
    qmp->greeting_deadline_us = g_get_monotonic_time() + qmp->timeout_us;
    qmp->read_source = g_unix_fd_add(qmp->fd, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, qmp);
    arm_timer(qmp);
    return qmp;
}

void
gw_qmp_set_timeout_ms(GwQmp *qmp, int64_t timeout_ms)
{
    qmp->timeout_us = timeout_ms * 1000;
    qmp->greeting_deadline_us = g_get_monotonic_time() + qmp->timeout_us;
    arm_timer(qmp);
}

unsigned
gw_qmp_version(const GwQmp *qmp)
{
    return qmp->version;
}
