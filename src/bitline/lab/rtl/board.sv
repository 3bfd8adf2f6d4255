// The digital side of a board with one array of binary cells: commands, cell writes, vectors in, codes out.
//
// Commands: open, identify, status, write, converter (accepted: the range is set by the circuit) and read. A session
// has a window of one: the last answer is kept and sent again when its request comes again. Levels and inputs are taken
// by the bits that there are: levels above 1 and inputs above 2^PASSES - 1 are not refused.
`include "records.svh"

module board #(
    parameter int ROWS = 16,
    parameter int COLUMNS = 24,
    parameter int LANES = 24,
    parameter int PASSES = 3,
    parameter int MOST = 4096,
    parameter int IDENTITY_BYTES = 80,
    parameter IDENTITY = "identity.hex"  // fields and name as words, as the host will read them
) (
    input  logic            clk,
    input  logic            reset,
    input  logic [7:0]      rx_data,
    input  logic            rx_valid,
    output logic            rx_ready,
    output logic [7:0]      tx_data,
    output logic            tx_valid,
    input  logic            tx_ready,
    // the analog side
    output cell_t   cell_port,
    output logic [ROWS-1:0] word_lines,
    output logic [15:0]     lane,
    input  logic [15:0]     code
);
    localparam int WORDS = MOST / 4;
    localparam int IDENTITY_WORDS = (IDENTITY_BYTES + 3) / 4;
    localparam logic [7:0] OPEN = 8'h01, IDENTIFY = 8'h02, STATUS = 8'h03, WRITE = 8'h10, CONVERTER = 8'h12, READ = 8'h20;
    localparam logic [15:0] BAD_COMMAND = 1, BAD_FIELD = 2, NOT_THERE = 3, NO_SESSION = 6;

    request_t request;
    payload_t payload;
    answer_t answer;
    logic [31:0] reply_word, reply_data;
    host_link #(.MOST(MOST)) link (.*);

    typedef enum logic [3:0] {IDLE, JUDGE, DONE, FETCH, CELLS, CLEAR, LOAD, START, RUN} state_t;
    state_t state;
    logic opened, was_open;  // a session is open; the reply to send is that of `open`
    logic [31:0] current, expected, held, writes, errors;
    logic [63:0] conversions;
    logic [15:0] row, column, vector, at;

    // The payload: a memory, read byte after byte while `fetch` holds, and the fields of a command in registers.
    logic [7:0] bytes [MOST];
    logic [7:0] data;
    logic [31:0] source;
    logic [223:0] fields;
    logic [31:0] field [7];
    logic fetch;
    for (genvar i = 0; i < 7; i++) assign field[i] = fields[32 * i +: 32];
    assign fetch = state == FETCH || state == CELLS || state == LOAD;

    always_ff @(posedge clk) begin
        if (payload.write) bytes[payload.address] <= payload.data;
        if (fetch) data <= bytes[source];
    end
    always_ff @(posedge clk) if (payload.write && payload.address < 28)
        fields[8 * payload.address[4:0] +: 8] <= payload.data;

    // The reply: words of a head in registers, then codes from a memory, or the identity.
    logic [31:0] codes [WORDS], identity [IDENTITY_WORDS];
    logic [31:0] codes_word, identity_word, asked;
    logic [191:0] opening, head;
    initial $readmemh(IDENTITY, identity);

    logic clear, load, start, busy, valid, odd;
    logic [15:0] load_value, first, lanes;
    logic [7:0] low;  // the first byte of an input
    logic [31:0] value;
    logic [1:0] mode;
    sequencer #(.ROWS(ROWS), .LANES(LANES), .PASSES(PASSES)) passes (.load_row(row), .*);

    always_ff @(posedge clk) begin
        if (valid) codes[at] <= value;
        codes_word <= codes[reply_word];
        identity_word <= identity[reply_word - 1];
        asked <= reply_word;
    end
    logic [15:0] heads;  // words of the head
    always_comb begin
        if (was_open) reply_data = opening[32 * asked[2:0] +: 32];
        else if (asked < heads) reply_data = head[32 * asked[2:0] +: 32];
        else reply_data = request.kind == IDENTIFY ? identity_word : codes_word;
    end

    assign cell_port = {state == CELLS, field[1][15:0] + row, field[2][15:0] + column, data[0]};
    assign first = field[3][15:0];
    assign lanes = field[4][15:0];
    assign mode = field[5][1:0];
    assign clear = state == CLEAR;
    assign load = state == LOAD && odd;
    assign load_value = {data, low};
    assign start = state == START;

    logic mine, repeated, next, drop;
    assign mine = opened && request.session == current;
    assign repeated = mine && request.number == expected - 1 && expected != 1;
    assign next = mine && request.number == expected;
    assign drop = state == IDLE && request.valid &&
                  (request.kind[7] || (request.kind != OPEN && mine && !repeated && !next));
    assign answer = {state == DONE, drop, was_open ? 32'd24 : held};

    // What a request would take, a clock after its fields are there; no place on the board has more than 16 bits.
    logic [31:0] cells, inputs, answers, steps;
    logic away, away_write, away_read;
    assign steps = mode == 1 ? PASSES : 1;
    always_ff @(posedge clk) begin
        cells <= field[3][15:0] * field[4][15:0];
        inputs <= field[2][15:0] * field[6][15:0];
        answers <= field[6][15:0] * lanes * steps;
        away <= field[0] != 0 || {field[1][31:16], field[2][31:16], field[3][31:16], field[4][31:16]} != 0;
        away_write <= field[1][15:0] + field[3][15:0] > ROWS || field[2][15:0] + field[4][15:0] > COLUMNS;
        away_read <= field[1][15:0] + field[2][15:0] > ROWS || first + lanes > LANES;
    end

    logic [15:0] refusal;  // status of a command that is not done, or 0
    always_comb begin
        refusal = 0;
        case (request.kind)
            IDENTIFY, STATUS: ;
            CONVERTER: if (request.length != 20) refusal = BAD_FIELD;
                else if (field[0] != 0) refusal = NOT_THERE;
            WRITE: if (request.length < 20) refusal = BAD_FIELD;
                else if (away || away_write) refusal = NOT_THERE;
                else if (request.length != 20 + cells) refusal = BAD_FIELD;
            READ: if (request.length < 28) refusal = BAD_FIELD;
                else if (away || away_read) refusal = NOT_THERE;
                else if (field[1] != 0 || field[2] == 0 || lanes == 0 || field[5] > 2 || field[6] == 0 ||
                         field[6][31:16] != 0 || request.length != 28 + 2 * inputs || answers > WORDS - 16)
                    refusal = BAD_FIELD;
            default: refusal = BAD_COMMAND;
        endcase
    end

    always_ff @(posedge clk) begin
        if (reset) begin
            state <= IDLE;
            {opened, was_open} <= 0;
            {expected, held, heads, writes, errors, conversions} <= 0;
        end else case (state)
            IDLE: if (request.valid && !drop) begin
                was_open <= request.kind == OPEN;
                {row, column, vector, odd} <= 0;
                at <= 4;
                state <= DONE;
                if (request.kind == OPEN) begin
                    opening <= {MOST, 32'd1, mine ? expected : 32'd1, {31'b0, mine}, 32'd1, 16'd1, 16'd0};
                    if (!mine) expected <= 1;
                    opened <= 1;
                    current <= request.session;
                end else if (!mine) begin
                    head <= {16'd1, NO_SESSION};
                    heads <= 1;
                    held <= 4;
                end else if (next) begin
                    expected <= expected + 1;
                    head <= {16'd1, refusal};
                    heads <= 1;
                    held <= 4;
                    if (refusal != 0) errors <= errors + 1;
                    else case (request.kind)
                        IDENTIFY: held <= 4 + IDENTITY_BYTES;
                        STATUS: begin
                            head <= {conversions, errors, writes, 32'd1, 16'd1, 16'd0};
                            heads <= 6;
                            held <= 24;
                        end
                        WRITE: begin
                            writes <= writes + 1;
                            source <= 20;
                            if (cells != 0) state <= FETCH;
                        end
                        READ: begin
                            head <= {{16'b0, lanes}, steps, field[6], 16'd1, 16'd0};
                            heads <= 4;
                            held <= 16 + 4 * answers;
                            source <= 28;
                            state <= FETCH;
                        end
                        default: ;
                    endcase
                end
            end
            DONE: state <= IDLE;
            FETCH: begin
                source <= source + 1;
                state <= request.kind == WRITE ? CELLS : CLEAR;
            end
            CELLS: begin
                source <= source + 1;
                column <= column + 1;
                if (column == field[4] - 1) begin
                    column <= 0;
                    row <= row + 1;
                    if (row == field[3] - 1) state <= DONE;
                end
            end
            CLEAR: state <= LOAD;
            LOAD: begin
                source <= source + 1;
                odd <= !odd;
                low <= data;
                if (odd) begin
                    row <= row + 1;
                    if (row == field[2] - 1) state <= START;
                end
            end
            START: begin
                conversions <= conversions + (mode == 0 ? LANES : LANES * PASSES);
                state <= RUN;
            end
            RUN: begin
                if (valid) at <= at + 1;
                if (!busy) begin
                    vector <= vector + 1;
                    row <= 0;
                    state <= vector == field[6] - 1 ? DONE : CLEAR;
                end
            end
            default: state <= IDLE;
        endcase
    end
endmodule
