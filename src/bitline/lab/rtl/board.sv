// The digital side of a board with one array of binary cells: commands, cell writes, vectors in, codes out.
//
// Commands: open, identify, status, write, converter (accepted: the range is set by the circuit) and read. A session
// has a window of one: the last answer is kept and sent again when its request comes again.
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
    output logic            cell_write,
    output logic [31:0]     cell_row,
    output logic [31:0]     cell_column,
    output logic            cell_level,
    output logic [ROWS-1:0] word_lines,
    output logic [31:0]     lane,
    input  logic [15:0]     code
);
    localparam int WORDS = MOST / 4;
    localparam int IDENTITY_WORDS = (IDENTITY_BYTES + 3) / 4;
    localparam logic [7:0] OPEN = 8'h01, IDENTIFY = 8'h02, STATUS = 8'h03, WRITE = 8'h10, CONVERTER = 8'h12, READ = 8'h20;
    localparam logic [15:0] BAD_COMMAND = 1, BAD_FIELD = 2, NOT_THERE = 3, NO_SESSION = 6;

    logic request, payload_write, answer, drop;
    logic [7:0] kind, payload_data;
    logic [31:0] session, sequence_number, length, payload_address, reply_length, reply_word, reply_data;
    host_link #(.MOST(MOST)) link (.*);

    logic [7:0] payload [MOST];
    logic [223:0] fields;  // the first bytes of the payload: the fields of a command
    logic [31:0] field [7];
    for (genvar i = 0; i < 7; i++) assign field[i] = fields[32 * i +: 32];
    logic [31:0] rom [IDENTITY_WORDS];
    logic [31:0] reply [WORDS];
    initial $readmemh(IDENTITY, rom);

    logic clear, load, start, busy, valid;
    logic [31:0] load_row, value, first, lanes;
    logic [15:0] load_value;
    logic [1:0] mode;
    sequencer #(.ROWS(ROWS), .LANES(LANES), .PASSES(PASSES)) passes (.*);

    typedef enum logic [3:0] {IDLE, DONE, COPY, CELLS, CLEAR, LOAD, START, RUN} state_t;
    state_t state;
    logic opened, was_open;  // a session is open; the reply to send is that of `open`
    logic [31:0] current, expected, held, writes, errors, row, column, vector, count, at, source;
    logic [63:0] conversions;
    logic [31:0] opening [6];

    assign reply_length = was_open ? 24 : held;
    assign reply_data = was_open ? opening[reply_word[2:0]] : reply[reply_word];
    assign answer = state == DONE;

    assign cell_write = state == CELLS;
    assign cell_row = field[1] + row;
    assign cell_column = field[2] + column;
    assign cell_level = payload[source][0];

    assign first = field[3];
    assign lanes = field[4];
    assign mode = field[5][1:0];
    assign clear = state == CLEAR;
    assign load = state == LOAD;
    assign load_row = row;
    assign load_value = {payload[source + 1], payload[source]};
    assign start = state == START;

    logic repeated, next;
    assign repeated = opened && session == current && sequence_number == expected - 1 && expected != 1;
    assign next = opened && session == current && sequence_number == expected;
    assign drop = state == IDLE && request && (kind[7] || (kind != OPEN && opened && session == current && !repeated && !next));

    logic bad_write, bad_read;
    assign bad_write = field[0] != 0 || field[1] + field[3] > ROWS || field[2] + field[4] > COLUMNS;
    assign bad_read = field[0] != 0 || field[1] != 0 || field[2] > ROWS || first + lanes > LANES;

    always_ff @(posedge clk) begin
        if (payload_write) begin
            payload[payload_address] <= payload_data;
            if (payload_address < 28) fields[8 * payload_address[4:0] +: 8] <= payload_data;
        end
        if (reset) begin
            state <= IDLE;
            {opened, was_open} <= 0;
            {expected, held, writes, errors, conversions} <= 0;
        end else case (state)
            IDLE: if (request && !drop) begin
                was_open <= kind == OPEN;
                {row, column, vector, count} <= 0;
                state <= DONE;
                if (kind == OPEN) begin
                    opening[0] <= {16'd1, 16'd0};
                    opening[1] <= 1;
                    opening[2] <= opened && session == current;
                    opening[3] <= opened && session == current ? expected : 1;
                    opening[4] <= 1;
                    opening[5] <= MOST;
                    if (!opened || session != current) expected <= 1;
                    opened <= 1;
                    current <= session;
                end else if (!opened || session != current) begin
                    reply[0] <= {16'd1, NO_SESSION};
                    held <= 4;
                end else if (next) begin
                    expected <= expected + 1;
                    reply[0] <= {16'd1, 16'd0};
                    held <= 4;
                    case (kind)
                        IDENTIFY: begin
                            held <= 4 + IDENTITY_BYTES;
                            state <= COPY;
                        end
                        STATUS: begin
                            reply[1] <= 1;
                            reply[2] <= writes;
                            reply[3] <= errors;
                            reply[4] <= conversions[31:0];
                            reply[5] <= conversions[63:32];
                            held <= 24;
                        end
                        CONVERTER: ;
                        WRITE: if (bad_write || length != 20 + field[3] * field[4]) begin
                            reply[0] <= {16'd1, bad_write ? NOT_THERE : BAD_FIELD};
                            errors <= errors + 1;
                        end else begin
                            writes <= writes + 1;
                            source <= 20;
                            state <= length == 20 ? DONE : CELLS;
                        end
                        READ: if (bad_read || field[5] > 2 || length != 28 + 2 * field[2] * field[6] || lanes == 0 ||
                                  field[6] == 0 || field[6] * lanes * (mode == 1 ? PASSES : 1) > WORDS - 4) begin
                            reply[0] <= {16'd1, bad_read ? NOT_THERE : BAD_FIELD};
                            errors <= errors + 1;
                        end else begin
                            reply[1] <= field[6];
                            reply[2] <= mode == 1 ? PASSES : 1;
                            reply[3] <= lanes;
                            held <= 16 + 4 * field[6] * lanes * (mode == 1 ? PASSES : 1);
                            conversions <= conversions + field[6] * LANES * (mode == 0 ? 1 : PASSES);
                            at <= 4;
                            source <= 28;
                            state <= CLEAR;
                        end
                        default: begin
                            reply[0] <= {16'd1, BAD_COMMAND};
                            errors <= errors + 1;
                        end
                    endcase
                end
            end
            DONE: state <= IDLE;
            COPY: begin
                reply[count + 1] <= rom[count];
                count <= count + 1;
                if (count == IDENTITY_WORDS - 1) state <= DONE;
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
            CLEAR: begin
                row <= 0;
                state <= field[2] == 0 ? START : LOAD;
            end
            LOAD: begin
                source <= source + 2;
                row <= row + 1;
                if (row == field[2] - 1) state <= START;
            end
            START: state <= RUN;
            RUN: begin
                if (valid) begin
                    reply[at] <= value;
                    at <= at + 1;
                end
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
